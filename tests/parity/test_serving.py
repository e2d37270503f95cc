"""A token's log-probability depends on its own sequence only: the equalities that hold serving.

Within one compiled shape they hold to the bit. Across shapes, XLA's linear layers sum in another
order: to 1e-4.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.core import Engine
from flaxen.outputs import RequestOutput
from tests.engine.fakes import add
from tests.engine.tiny import (
    ONE_SHAPE,
    dense_logprobs,
    make_engine,
    make_executor,
    prompts,
    request,
    run,
    trace,
    with_config,
)

LENGTHS = [1, 2, 5, 16, 17, 31, 40, 64, 70, 3, 8, 33, 48, 12, 20, 90]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_engine()


@pytest.fixture(scope="module")
def alone() -> list[RequestOutput]:
    """Each prompt by itself, in an engine that caches no prefix."""
    plain = make_engine(with_config(enable_prefix_caching=False))
    return [run(plain, [request("r", p)])[0] for p in prompts(LENGTHS)]


def test_batched_is_alone(engine: Engine, alone: list[RequestOutput]) -> None:
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    for got, expected in zip(run(engine, batch), alone, strict=True):
        assert trace(got) == trace(expected)


def test_chunked_is_whole(alone: list[RequestOutput]) -> None:
    chunked = make_engine(with_config(max_num_batched_tokens=16))  # the same shape, less of it
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    for got, expected in zip(run(chunked, batch), alone, strict=True):
        assert trace(got) == trace(expected)


def test_cached_is_uncached(alone: list[RequestOutput]) -> None:
    engine = make_engine()
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    run(engine, batch)
    for got, expected in zip(run(engine, batch), alone, strict=True):
        assert trace(got) == trace(expected)
        assert got.num_cached_tokens == (len(got.prompt_token_ids) - 1) // 16 * 16


def test_preempted_is_not() -> None:
    longer = [request(f"r{i}", p, max_tokens=50) for i, p in enumerate(prompts([20] * 8))]
    calm = make_engine()
    expected = run(calm, longer)
    assert calm.stats().num_preemptions == 0
    crowded = make_engine(with_config(num_pages=16, enable_prefix_caching=False))
    got = run(crowded, longer)
    assert crowded.stats().num_preemptions > 0
    assert [trace(o) for o in got] == [trace(o) for o in expected]


def test_streamed_is_not(engine: Engine, alone: list[RequestOutput]) -> None:
    async def stream() -> list[RequestOutput]:
        served = AsyncEngine(make_engine())

        async def one(index: int, prompt: list[int]) -> RequestOutput:
            asked = request(f"r{index}", prompt)
            output = RequestOutput.of(asked, None)
            async for event in served.submit(asked):  # of one token, unless this loop is late
                output.add(event)
            return output

        with served:
            return await asyncio.gather(*(one(i, p) for i, p in enumerate(prompts(LENGTHS))))

    for got, expected in zip(asyncio.run(stream()), alone, strict=True):
        assert trace(got) == trace(expected)


def test_served_is_the_dense_forward(alone: list[RequestOutput]) -> None:
    for output in alone:
        tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        dense = dense_logprobs(tokens)[len(output.prompt_token_ids) - 1 : -1]
        for line, (token_id, logprob, rank, top) in zip(dense, trace(output), strict=True):
            assert abs(line[token_id] - logprob) < 1e-4
            assert rank == 1
            for top_id, top_logprob in top:
                assert abs(line[top_id] - top_logprob) < 1e-4
            np.testing.assert_allclose(
                sorted(line)[-3:], sorted(v for _, v in top), rtol=0, atol=1e-4
            )


def test_prompt_logprobs_are_the_dense_forward() -> None:
    for budget in (64, 16):  # whole and chunked
        engine = make_engine(with_config(max_num_batched_tokens=budget))
        batch = [
            request(f"r{i}", p, prompt_logprobs=2) for i, p in enumerate(prompts([1, 2, 40, 90]))
        ]
        for output in run(engine, batch) + run(engine, batch):
            found = output.prompt_logprobs
            assert found is not None
            assert found[0] is None
            assert len(found) == len(output.prompt_token_ids)
            dense = dense_logprobs(list(output.prompt_token_ids))
            for line, token, token_id in zip(
                dense, found[1:], output.prompt_token_ids[1:], strict=False
            ):
                assert token is not None
                assert abs(token[token_id].logprob - line[token_id]) < 1e-4
                assert token[token_id].rank == 1 + int((line > line[token_id]).sum())
                assert {1, 2} <= {each.rank for each in token.values()}


def test_shapes_agree() -> None:
    several = make_engine(replace(ONE_SHAPE, compile_sizes=(1, 4, 16, 128)))
    for output in run(several, [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]):
        tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        dense = dense_logprobs(tokens)[len(output.prompt_token_ids) - 1 : -1]
        for line, (token_id, logprob, _, _) in zip(dense, trace(output), strict=True):
            assert abs(line[token_id] - logprob) < 1e-4


def test_seed_gives_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    def sampled(i: int, prompt: list[int]) -> object:
        return request(f"r{i}", prompt, temperature=1.0, top_p=0.9, top_k=50, seed=7 + i)

    batch = [sampled(i, p) for i, p in enumerate(prompts([20] * 16))]
    together = run(engine, batch)  # type: ignore[arg-type]
    for asked, got in zip(batch, together, strict=True):
        (by_itself,) = run(engine, [asked])  # type: ignore[list-item]
        assert trace(got) == trace(by_itself)
    assert len({tuple(o.outputs[0].token_ids) for o in together}) == 16


def test_n_is_several_with_seeds_in_a_row(engine: Engine) -> None:
    (prompt,) = prompts([30])
    (together,) = run(engine, [request("n", prompt, n=3, temperature=1.0, seed=11)])
    for index in range(3):
        (one,) = run(engine, [request("1", prompt, temperature=1.0, seed=11 + index)])
        assert together.outputs[index].token_ids == one.outputs[0].token_ids


def test_two_engines_share_parameters_and_nothing_else(alone: list[RequestOutput]) -> None:
    first, second = (make_engine(executor=make_executor()) for _ in range(2))
    batch = [request(f"r{i}", p) for i, p in enumerate(prompts(LENGTHS))]
    for asked in batch:
        add(first, asked)
        add(second, asked)
    outputs = {asked.request_id: RequestOutput.of(asked, None) for asked in batch}
    while first.has_work or second.has_work:
        for event in first.step():
            outputs[event.request_id].add(event)
        second.step()
    for got, expected in zip(outputs.values(), alone, strict=True):
        assert trace(got) == trace(expected)
