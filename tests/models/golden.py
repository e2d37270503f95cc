"""Reads the goldens, and runs whole sequences through a model: shared by the tests of this room."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.models import attention_impls
from flaxen.models.model import Model, Params

GOLDENS = Path(__file__).parent / "goldens"
CASES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())


def hidden_states(model: Model, params: Params, tokens: np.ndarray) -> jax.Array:
    """The final hidden states [T, D] of one sequence of tokens [T]."""
    positions = jnp.arange(len(tokens), dtype=jnp.int32)[None]
    cache = (None,) * len(model.cache_specs)
    attend = attention_impls.causal(None, model.backend)
    hidden, _ = model.forward(params, jnp.asarray(tokens)[None], positions, attend, cache)
    return hidden[0]


def logits_of(model: Model, params: Params, tokens: np.ndarray) -> np.ndarray:
    """The float32 logits [T, V] of one sequence of tokens [T]."""
    return np.asarray(model.unembed(params, hidden_states(model, params, tokens)))


def expected(case: str) -> tuple[np.ndarray, np.ndarray]:
    """A case's tokens [T], and transformers' logits [T, V]."""
    with np.load(GOLDENS / case / "expected.npz") as arrays:
        return arrays["tokens"], arrays["logits"]
