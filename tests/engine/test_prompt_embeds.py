"""Embeddings in place of a prompt's tokens: on a fake device and a real one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.model_inputs import check_inputs
from flaxen.protocol import EmbedSpan, FieldError, Request
from tests.engine.fakes import SMALL, Ends, fake_engine, run_out
from tests.engine.tiny import (
    MODEL,
    PARAMS,
    make_engine,
    make_executor,
    prompts,
    request,
    run,
    trace,
    with_config,
)

PLACEHOLDER = 7


def embedded(asked: Request, *places: tuple[int, int], contents: bytes = b"") -> Request:
    """The same prompt, with the model's own embeddings in place of the tokens at some places."""
    ids = list(asked.prompt_token_ids)
    table, spans = np.asarray(PARAMS["embed"]), []
    for start, end in places:
        content_hash = contents or repr(ids[start:end]).encode()
        values = table[ids[start:end]]
        spans.append(EmbedSpan(start=start, values=values, content_hash=content_hash))
        ids[start:end] = [PLACEHOLDER] * (end - start)
    return replace(asked, prompt_token_ids=tuple(ids), prompt_embeds=tuple(spans))


@pytest.fixture(scope="module")
def real() -> JaxExecutor:
    return make_executor()


def test_the_embeddings_of_the_tokens_give_the_bits_of_the_tokens(real: JaxExecutor) -> None:
    asked = [request(f"r{i}", p) for i, p in enumerate(prompts([3, 17, 40, 90]))]
    places = [[(0, 3)], [(5, 9)], [(0, 1), (20, 39)], [(10, 80)]]
    plain = run(make_engine(executor=real), asked)
    given = [embedded(each, *where) for each, where in zip(asked, places, strict=True)]
    for budget in (64, 16):  # whole, and in chunks
        engine = make_engine(with_config(max_num_batched_tokens=budget), executor=real)
        for _ in range(2):  # the second finds cached prefixes
            outputs = run(engine, given)
            assert [trace(output) for output in outputs] == [trace(output) for output in plain]
        assert engine.stats().num_prefix_hits > 0
    mixed = run(make_engine(executor=real), [*given[:2], *asked[2:]])
    assert [trace(output) for output in mixed] == [trace(output) for output in plain]


def test_preempted_is_not(real: JaxExecutor) -> None:
    asked = [request(f"r{i}", p, max_tokens=50) for i, p in enumerate(prompts([20] * 8))]
    plain = run(make_engine(executor=real), asked)
    small = make_engine(with_config(16, enable_prefix_caching=False), executor=real)
    got = run(small, [embedded(each, (2, 18)) for each in asked])
    assert small.stats().num_preemptions > 0
    assert [trace(output) for output in got] == [trace(output) for output in plain]


def image(name: str, values: list[int], content_hash: bytes, start: int = 2) -> Request:
    """A prompt of 12 tokens, of which some are an image's."""
    ids = [5, 6, *[PLACEHOLDER] * 10]
    span = EmbedSpan(
        start=start, values=np.array(values, np.float32)[:, None], content_hash=content_hash
    )
    asked = request(name, ids, max_tokens=3, logprobs=None)
    return replace(asked, prompt_embeds=(span,))


def ends_of(engine: Engine, asked: Request) -> Ends:
    engine.add(engine.check(asked))
    return run_out(engine)


def test_pages_are_shared_only_where_the_contents_are_the_same() -> None:
    """The fake refuses to compute with pages that hold another prompt's tokens."""
    engine = fake_engine(SMALL)
    first, second = list(range(20, 30)), list(range(40, 50))
    for values, content_hash, hits in [
        (first, b"first", 0),
        (first, b"first", 8),
        (second, b"second", 0),
        (second, b"second", 8),
        (first, b"first", 8),
    ]:
        before = engine.stats().num_prefix_hits
        ends = ends_of(engine, image("r", values, content_hash))
        assert ends.tokens[("r", 0)] == [values[-1] + 1, values[-1] + 2, values[-1] + 3]
        assert engine.stats().num_prefix_hits - before == hits
    before = engine.stats().num_prefix_hits
    ends_of(engine, image("r", first[:8], b"first", start=4))  # elsewhere in the prompt
    assert engine.stats().num_prefix_hits == before


def test_tokens_are_not_embeddings() -> None:
    engine = fake_engine(SMALL)
    ends_of(engine, image("r", list(range(20, 30)), b"first"))
    before = engine.stats().num_prefix_hits
    ends_of(engine, request("r", [5, 6, *[PLACEHOLDER] * 10], max_tokens=3, logprobs=None))
    assert engine.stats().num_prefix_hits == before


@pytest.mark.parametrize(
    ("spans", "match"),
    [
        ([EmbedSpan(start=2, values=np.zeros(3), content_hash=b"x")], r"\[n, D\], got \[3\]"),
        ([EmbedSpan(start=2, values=np.zeros((3, 1)), content_hash=b"")], "content_hash of"),
        ([EmbedSpan(start=2, values=np.zeros((3, 1)), content_hash="x")], "must be bytes, got a s"),
        ([EmbedSpan(start=2.0, values=np.zeros((3, 1)), content_hash=b"x")], "whole number, got 2"),
        ([EmbedSpan(start=2, values=[[0.0]], content_hash=b"x")], "NumPy array .*, got a list: c"),
        ([EmbedSpan(start=2, values=np.zeros((3, 1), complex), content_hash=b"x")], "got complex"),
        ([EmbedSpan(start=2, values=np.array([["a"]]), content_hash=b"x")], "real numbers, got <U"),
        ([EmbedSpan(start=10, values=np.zeros((3, 1)), content_hash=b"x")], "at 10 to 12, and"),
        ([EmbedSpan(start=-1, values=np.zeros((3, 1)), content_hash=b"x")], "at -1 to 1, and"),
        (
            [
                EmbedSpan(start=start, values=np.zeros((3, 1)), content_hash=b"x")
                for start in (2, 4)
            ],
            "at 4 to 6, and must follow each other without overlap",
        ),
    ],
)
def test_spans_that_can_not_be_are_refused(spans: list[EmbedSpan], match: str) -> None:
    asked = replace(request("r", [5] * 12, logprobs=None), prompt_embeds=tuple(spans))
    with pytest.raises(FieldError, match=match):
        fake_engine().check(asked)


def test_log_probabilities_of_such_a_prompt_are_refused() -> None:
    asked = embedded(request("r", [5] * 12, prompt_logprobs=1), (2, 4))
    with pytest.raises(FieldError, match="prompt_logprobs can't be had of a prompt with"):
        fake_engine().check(asked)


def test_a_model_that_takes_no_embeddings_refuses_them() -> None:
    asked = embedded(request("r", [5] * 12), (2, 4))
    with pytest.raises(FieldError, match="takes nothing but tokens"):
        check_inputs(replace(MODEL, embed_dim=None), asked)
    narrow = replace(
        asked, prompt_embeds=(EmbedSpan(start=0, values=np.zeros((1, 5)), content_hash=b"x"),)
    )
    with pytest.raises(FieldError, match="have 5 numbers each, and the model takes 48"):
        check_inputs(MODEL, narrow)
