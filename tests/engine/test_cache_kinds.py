"""The engine over each kind of cache, and mixes of them, with an executor computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.models.cache import CacheSpec, Latent, Sliding, State
from flaxen.protocol import Request, SamplingParams
from tests.engine.fakes import SMALL, Ends, fake_engine, run_out
from tests.scheduling.groups import FULL, groups

LATENT, STATE = Latent(rank=4, rope_dim=2), State(shapes=((2, 3),))
SLIDING = Sliding(num_kv_heads=1, head_dim=2, window=10)


def request(name: str, prompt: range, max_tokens: int) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return Request(request_id=name, prompt_token_ids=tuple(prompt), sampling=sampling)


def run(specs: list[CacheSpec], num_pages: int, *, twice: bool = False) -> tuple[Ends, int, int]:
    """The ends of some requests, and how often they were preempted and found cached tokens."""
    engine = fake_engine(replace(SMALL, groups=groups(specs, num_pages)))
    ends = Ends()
    for turn in ("first", "again") if twice else ("first",):
        for i in range(8):
            prompt = range(10 * i + 3, 10 * i + 3 + 4 * i + 1)
            engine.add(engine.check(request(f"{turn} {i}", prompt, 24)))
        run_out(engine, ends)
    stats = engine.stats()
    return ends, stats.num_preemptions, stats.num_prefix_hits


@pytest.mark.parametrize(
    "specs",
    [[LATENT], [SLIDING], [STATE], [FULL, SLIDING], [FULL, LATENT, STATE], [SLIDING, STATE, FULL]],
    ids=["latent", "sliding", "state", "full and sliding", "with a state", "three"],
)
def test_the_tokens_are_those_of_a_model_that_keeps_all(specs: list[CacheSpec]) -> None:
    expected, _, _ = run([FULL], 256, twice=True)
    ends, _, num_hits = run(specs, 256, twice=True)
    assert (ends.tokens, ends.reasons) == (expected.tokens, expected.reasons)
    assert (num_hits > 0) == (STATE not in specs)  # its prefixes are refused


@pytest.mark.parametrize("specs", [[FULL, SLIDING], [FULL, LATENT, STATE]])
def test_the_preempted_come_to_the_same_tokens(specs: list[CacheSpec]) -> None:
    expected, num_preemptions, _ = run([FULL], 256)
    assert num_preemptions == 0
    ends, num_preemptions, _ = run(specs, 20)
    assert num_preemptions > 0
    assert (ends.tokens, ends.reasons) == (expected.tokens, expected.reasons)


def test_as_many_sequences_run_as_there_are_states() -> None:
    engine = fake_engine(replace(SMALL, groups=groups([STATE], 3)))
    for i in range(5):
        engine.add(engine.check(request(f"r{i}", range(5, 6), 4)))
    engine.step()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (3, 2)
    assert engine.stats().num_used_pages == 3
    assert len(run_out(engine).reasons) == 5
