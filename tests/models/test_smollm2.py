"""Ours = Hugging Face on a real model: SmolLM2-135M, from the GGUF file of a Python package."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.hub.resolve import resolve
from flaxen.models.model import logprobs
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import GOLDENS, hidden_states

LENGTHS = (96, 320, 768)  # padded to, so that a few compilations serve all


@pytest.mark.slow
def test_greedy_tokens_and_logprobs_equal_transformers() -> None:
    checkpoint = open_checkpoint(resolve("smollm2-135m"))
    model, params = checkpoint.model, checkpoint.load_params(jnp.dtype("float32"))

    @jax.jit
    def last_logprobs(params, tokens, start):  # type: ignore[no-untyped-def]
        hidden = hidden_states(model, params, tokens)
        logits = model.unembed(params, jax.lax.dynamic_slice_in_dim(hidden, start, 48))
        return logprobs(logits, model.backend)

    items = json.loads((GOLDENS / "smollm2_greedy.json").read_text())["items"]
    assert len(items) == 12
    for item in items:
        prompt, output, top5 = (item[k] for k in ("prompt_token_ids", "output_token_ids", "top5"))
        tokens = prompt + output
        padded = np.zeros(min(n for n in LENGTHS if n >= len(tokens)), np.int32)
        padded[: len(tokens)] = tokens
        ours = np.asarray(last_logprobs(params, padded, len(prompt) - 1))
        assert ours.shape[0] == len(output) == len(top5) == 48
        assert ours.argmax(axis=-1).tolist() == output
        for row, expected in zip(ours, top5, strict=True):
            ids, values = [i for i, _ in expected], [v for _, v in expected]
            np.testing.assert_allclose(row[ids], values, atol=2e-4, rtol=0)
            assert np.sort(row)[-5:].min() <= row[ids].min() + 2e-4  # they are the five highest
