"""The data replicas of a mesh give what one engine gives."""

from __future__ import annotations

import random

from flaxen.engine.replicas import ReplicatedEngine
from flaxen.sharding.mesh import make_mesh, replicas
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import parse_mesh
from tests.engine.tiny import make_engine, prompts, request, run, trace
from tests.mesh.meshes import executor_on
from tests.mesh.test_serving import LENGTHS, assert_close


def replicated(text: str) -> ReplicatedEngine:
    meshes = replicas(make_mesh(parse_mesh(text)))
    executors = [executor_on(Placement(mesh)) for mesh in meshes]
    seeds = random.Random(0)
    first = make_engine(executor=executors[0], seed=seeds)
    others = [
        make_engine(executor=each, seed=seeds, adapters=first.adapters) for each in executors[1:]
    ]
    return ReplicatedEngine([first, *others])


def test_replicas_serve_what_one_engine_serves() -> None:
    asked = [request(f"r{i}", each) for i, each in enumerate(prompts(LENGTHS))]
    asked += [request(f"s{i}", each, temperature=0.9) for i, each in enumerate(prompts(LENGTHS))]
    engine = replicated("data=2,tensor=2")
    for got, expected in zip(run(engine, asked), run(make_engine(), asked), strict=True):
        assert_close(got, expected)
    assert all(each.num_steps > 0 for each in engine.stats().replicas)


def test_the_replicas_of_one_device_each_give_the_same_bits() -> None:
    engine = replicated("data=2")
    asked = [
        request(f"r{i}", each, temperature=0.9, seed=i) for i, each in enumerate(prompts(LENGTHS))
    ]
    together = run(engine, asked)
    for one, expected in zip(reversed(asked), reversed(together), strict=True):
        assert trace(run(engine, [one])[0]) == trace(expected)
