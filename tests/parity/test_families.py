"""Each row of the table of families, served through the C++ kernels: every way is the same to the
bit, is the trainer's to the bit, and is transformers'.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.weights.checkpoint import open_checkpoint
from tests.engine.tiny import trace
from tests.models.family_table import NAMES, row_of
from tests.models.family_table.checkpoint import PROMPT, made
from tests.models.family_table.served import (
    Served,
    Trace,
    ask,
    ask_after_caching,
    of_prompt,
    serve,
    traced,
)
from tests.models.family_table.trained import by_sequence, training_step

pytestmark = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")

TOLERANCE = 2e-4


@pytest.fixture(params=NAMES, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def served(name: str) -> Served:
    return serve(made(row_of(name)))


@pytest.fixture(scope="module")
def alone(served: Served) -> list[Trace]:
    """Each prompt by itself, prefilled whole."""
    engine = served.engine(enable_prefix_caching=False)
    return [traced(ask(engine, prompt)[0]) for prompt in served.prompts]


def test_it_is_transformers(name: str, served: Served, alone: list[Trace]) -> None:
    """Whole prefill, and the greedy continuation."""
    expected = made(row_of(name))
    assert expected.logits.std() > 1  # a tolerance means nothing on logits near 0
    logits = expected.logits.astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    scores = np.take_along_axis(logprobs[:-1], expected.tokens[1:, None], axis=-1)[:, 0]
    np.testing.assert_allclose(alone[0][0], scores, atol=TOLERANCE, rtol=TOLERANCE)
    assert len(served.prompts[1]) == PROMPT
    assert tuple(each[0] for each in alone[1][1]) == expected.greedy


def test_chunked_is_whole(served: Served, alone: list[Trace]) -> None:
    engine = served.engine(max_num_batched_tokens=5, enable_prefix_caching=False)
    assert [traced(each) for each in ask(engine, *served.prompts)] == alone


def test_decode_is_whole_prefill(served: Served, alone: list[Trace]) -> None:
    engine = served.engine(enable_prefix_caching=False)
    for prompt, (scores, tokens) in zip(served.prompts, alone, strict=True):
        whole = (*prompt, *(each[0] for each in tokens))
        found = of_prompt(ask(engine, whole, max_tokens=1)[0])
        assert found == (*scores, *(each[1] for each in tokens))


def test_batched_is_alone(served: Served, alone: list[Trace]) -> None:
    engine = served.engine(enable_prefix_caching=False)
    assert [traced(each) for each in ask(engine, *served.prompts)] == alone


def test_preempted_is_not(served: Served) -> None:
    engine = served.engine(enable_prefix_caching=False)
    shorter = [prompt[:12] for prompt in served.prompts[1:]]
    calm = [traced(ask(engine, prompt, max_tokens=30)[0]) for prompt in shorter]
    assert engine.stats().num_preemptions == 0
    assert [traced(each) for each in ask(engine, *shorter, max_tokens=30)] == calm
    assert engine.stats().num_preemptions > 0 or not served.keeps_all_tokens


def test_cached_is_uncached(served: Served, alone: list[Trace]) -> None:
    found = ask_after_caching(served.engine(), served.prompts[0])[0]
    assert trace(found) == alone[0][1]
    assert found.num_cached_tokens >= 16 or served.keeps_states


def test_trained_is_served(name: str, served: Served, alone: list[Trace]) -> None:
    sequences = [
        (*prompt, *(each[0] for each in tokens))
        for prompt, (_, tokens) in zip(served.prompts, alone, strict=True)
    ]
    step, batch = training_step(served.model, sequences)
    checkpoint = open_checkpoint(made(row_of(name)).directory)
    (_, logprobs), _ = step(checkpoint.load_params(jnp.dtype("float32")))
    found = by_sequence(batch, logprobs)
    for sequence, (scores, tokens) in zip(sequences, alone, strict=True):
        expected = (*scores, *(each[1] for each in tokens))
        assert tuple(found[sequence[:-1]].tolist()) == expected
