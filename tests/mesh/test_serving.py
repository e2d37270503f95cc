"""Serving on a mesh gives what one device gives, and within a mesh the usual equalities hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.engine.core import Engine
from flaxen.outputs import RequestOutput
from flaxen.protocol import Request
from tests.engine.grammars import Rule
from tests.engine.lora import LORA_SHAPE, adapted, make_adapter
from tests.engine.tiny import ONE_SHAPE, make_engine, prompts, request, run, trace
from tests.mesh.meshes import mesh_engine

LENGTHS = [1, 2, 17, 40, 70, 5, 33]
MESHES = ["tensor=2", "tensor=6"]  # 2 KV heads: one on each device, and copies on three


def assert_close(got: RequestOutput, expected: RequestOutput) -> None:
    """The same greedy tokens, and log-probabilities to 1e-5 of their size."""
    for one, other in zip(trace(got), trace(expected), strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], rel=1e-5)
        assert [token for token, _ in one[3]] == [token for token, _ in other[3]]


@pytest.fixture(scope="module", params=MESHES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return mesh_engine(request.param)


def requests() -> list[Request]:
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    seeded = [
        request(f"s{i}", p, temperature=0.9, seed=i, top_p=0.9, top_k=40)
        for i, p in enumerate(prompts(LENGTHS))
    ]
    return batch + seeded


def test_a_mesh_serves_what_one_device_serves(engine: Engine) -> None:
    for got, expected in zip(run(engine, requests()), run(make_engine(), requests()), strict=True):
        assert_close(got, expected)


def test_within_a_mesh_batched_is_alone(engine: Engine) -> None:
    batched = run(engine, requests())
    for got, one in zip(batched, requests(), strict=True):
        assert trace(got) == trace(run(engine, [one])[0])


def test_within_a_mesh_chunked_is_whole() -> None:
    whole = run(mesh_engine("tensor=2"), requests())
    chunked = mesh_engine("tensor=2", replace(ONE_SHAPE, max_num_batched_tokens=16))
    for got, expected in zip(run(chunked, requests()), whole, strict=True):
        assert trace(got) == trace(expected)


def test_adapters_are_divided_with_their_layers() -> None:
    batch = [
        adapted(f"r{i}", p, ("one", "two", None)[i % 3]) for i, p in enumerate(prompts([9] * 6))
    ]
    found = []
    for engine in (make_engine(LORA_SHAPE), mesh_engine("tensor=2", LORA_SHAPE)):
        for seed, name in enumerate(("one", "two")):
            engine.adapters.load(name, make_adapter(seed))
        found.append(run(engine, batch))
    for got, expected in zip(*found, strict=True):
        assert_close(got, expected)


def test_a_grammar_forbids_the_same_on_a_mesh(engine: Engine) -> None:
    ruled = [
        replace(each, grammar=lambda: Rule(lambda tokens: range(len(tokens) % 3, 300, 7)))
        for each in requests()[::3]
    ]
    found = run(engine, ruled)
    for got, expected in zip(found, run(make_engine(), ruled), strict=True):
        assert_close(got, expected)
    for got, one in zip(found, ruled, strict=True):
        assert trace(got) == trace(run(engine, [one])[0])
