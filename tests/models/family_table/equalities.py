"""A row served through the C++ kernels: every way is the same to the bit, is the trainer's to the
bit, and is transformers'.

Two rooms ask this of rows of the table: tests/parity as users compile, tests/models as fast as XLA
can.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.weights.checkpoint import open_checkpoint
from tests.engine.tiny import trace
from tests.models.family_table import row_of
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
from tests.models.family_table.trained import batch_of, by_sequence, step_of

TOLERANCE = 2e-4


class Equalities:
    """Tests of the row that the fixture `name` of the module names."""

    @pytest.fixture(scope="module")
    @classmethod
    def served(cls, name: str) -> Served:
        return serve(made(row_of(name)))

    @pytest.fixture(scope="module")
    @classmethod
    def alone(cls, served: Served) -> list[Trace]:
        """Each prompt by itself, prefilled whole."""
        engine = served.engine(enable_prefix_caching=False)
        return [traced(ask(engine, prompt)[0]) for prompt in served.prompts]

    def test_it_is_transformers(self, name: str, served: Served, alone: list[Trace]) -> None:
        """Whole prefill, and the greedy continuation."""
        expected = made(row_of(name))
        assert expected.logits.std() > 1  # a tolerance means nothing on logits near 0
        logits = expected.logits.astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        scores = np.take_along_axis(logprobs[:-1], expected.tokens[1:, None], axis=-1)[:, 0]
        np.testing.assert_allclose(alone[0][0], scores, atol=TOLERANCE, rtol=TOLERANCE)
        assert len(served.prompts[1]) == PROMPT
        assert tuple(each[0] for each in alone[1][1]) == expected.greedy

    def test_chunked_is_whole(self, served: Served, alone: list[Trace]) -> None:
        engine = served.engine(max_num_batched_tokens=5, enable_prefix_caching=False)
        assert [traced(each) for each in ask(engine, *served.prompts)] == alone

    def test_decode_is_whole_prefill(self, served: Served, alone: list[Trace]) -> None:
        engine = served.engine(enable_prefix_caching=False)
        for prompt, (scores, tokens) in zip(served.prompts, alone, strict=True):
            whole = (*prompt, *(each[0] for each in tokens))
            found = of_prompt(ask(engine, whole, max_tokens=1)[0])
            assert found == (*scores, *(each[1] for each in tokens))

    def test_batched_is_alone(self, served: Served, alone: list[Trace]) -> None:
        engine = served.engine(enable_prefix_caching=False)
        assert [traced(each) for each in ask(engine, *served.prompts)] == alone

    def test_preempted_is_not(self, served: Served) -> None:
        engine = served.engine(enable_prefix_caching=False)
        shorter = [prompt[:12] for prompt in served.prompts[1:]]
        calm = [traced(ask(engine, prompt, max_tokens=30)[0]) for prompt in shorter]
        assert engine.stats().num_preemptions == 0
        assert [traced(each) for each in ask(engine, *shorter, max_tokens=30)] == calm
        assert engine.stats().num_preemptions > 0 or not served.keeps_all_tokens

    def test_cached_is_uncached(self, served: Served, alone: list[Trace]) -> None:
        found = ask_after_caching(served.engine(), served.prompts[0])[0]
        assert trace(found) == alone[0][1]
        assert found.num_cached_tokens >= 16 or served.keeps_states

    def test_trained_is_served(self, name: str, served: Served, alone: list[Trace]) -> None:
        sequences = [
            (*prompt, *(each[0] for each in tokens))
            for prompt, (_, tokens) in zip(served.prompts, alone, strict=True)
        ]
        batch = batch_of(sequences)
        checkpoint = open_checkpoint(made(row_of(name)).directory)
        masters = checkpoint.load_params(jnp.dtype("float32"))
        (_, logprobs), _ = step_of(name, Backend.CPU)(masters, batch)
        found = by_sequence(batch, logprobs)
        for sequence, (scores, tokens) in zip(sequences, alone, strict=True):
            expected = (*scores, *(each[1] for each in tokens))
            assert tuple(found[sequence[:-1]].tolist()) == expected
