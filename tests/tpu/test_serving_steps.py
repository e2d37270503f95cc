"""Whole serving steps of a 1B and an 8B shape, compiled for slices of eight TPU chips.

The 8B shape has its whole depth; two layers stand for all of the other. Nothing runs here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.engine_args import EngineArgs
from flaxen.planning.plan import plan
from flaxen.sharding.shape import parse_mesh
from tests.planning.shapes import LLAMA_1B, LLAMA_8B, config_only


@pytest.mark.parametrize(
    ("target", "shape", "num_layers"),
    [("v5e-8", LLAMA_1B, 2), ("v6e-8", LLAMA_8B, 32)],
    ids=["v5e-1b", "v6e-8b"],
)
def test_serving_compiles(
    tmp_path: Path, target: str, shape: dict[str, object], num_layers: int
) -> None:
    directory = config_only(tmp_path / "model", shape, num_hidden_layers=num_layers)
    args = EngineArgs(
        model=str(directory), max_model_len=1024, max_num_seqs=16, max_num_batched_tokens=256
    )
    made = plan(args, target, parse_mesh("tensor=8"))
    serving = made.serving
    assert made.why_not_compiled is None
    assert serving is not None
    assert serving.refusal is None
    assert serving.fits
    parts = dict(serving.memory.parts)
    held = sum(parts[name] for name in ("weights", "KV pages", "sampling state"))
    for step in (serving.decode, serving.prefill):
        assert step is not None
        assert step.compiled is not None
        # Pages are written in place: no program has a second copy of them.
        assert 0 <= step.compiled.argument_bytes - held < 2**20
        assert step.compiled.temporary_bytes + step.compiled.output_bytes < 2**28
        assert step.compiled.num_operations == pytest.approx(step.work.num_operations, rel=0.1)
        # Two sums a layer and one of the embeddings; sampling's are of a few numbers.
        sums = [each for each in step.work.collectives if each.kind == "all-reduce"]
        assert sum(each.count for each in sums) <= 2 * num_layers + 1 + 8
        assert not any(each.num_bytes > 2**20 for each in step.work.collectives if each not in sums)
