"""The sizes of steps: each backend's own, and what was asked for in their place."""

from __future__ import annotations

import pytest

from flaxen.execution.step_sizes import DEFAULTS, StepSizes, step_sizes
from flaxen.kernels.backend import Backend


def sizes(backend: Backend, seqs: int | None = None, tokens: int | None = None) -> StepSizes:
    return step_sizes(backend, max_num_seqs=seqs, max_num_batched_tokens=tokens)


def test_the_defaults() -> None:
    assert set(DEFAULTS) == set(Backend)
    cpu, gpu = sizes(Backend.CPU), sizes(Backend.GPU)
    assert (cpu.max_num_seqs, cpu.max_num_batched_tokens) == (64, 512)
    assert cpu.compiled == (1, 16, 64, 128, 512)
    assert (gpu.max_num_seqs, gpu.max_num_batched_tokens) == (256, 2048)
    assert gpu.compiled == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    assert sizes(Backend.TPU).compiled[0] == 16


@pytest.mark.parametrize("backend", list(Backend))
@pytest.mark.parametrize("seqs", [None, 1, 40, 1000])
@pytest.mark.parametrize("tokens", [None, 16, 700, 10_000])
def test_every_sequence_decodes_in_one_step_and_the_largest_is_compiled(
    backend: Backend, seqs: int | None, tokens: int | None
) -> None:
    found = sizes(backend, seqs, tokens)
    assert found.compiled == tuple(sorted(set(found.compiled)))
    assert found.compiled[-1] == found.max_num_batched_tokens
    if tokens is None or seqs is None:
        assert found.max_num_seqs <= found.max_num_batched_tokens
    assert found.max_num_seqs == seqs or seqs is None
    assert found.max_num_batched_tokens == tokens or tokens is None


def test_sizes_that_were_given_are_taken() -> None:
    found = step_sizes(
        Backend.GPU, max_num_seqs=None, max_num_batched_tokens=64, compile_sizes=(8, 64)
    )
    assert found.compiled == (8, 64)
