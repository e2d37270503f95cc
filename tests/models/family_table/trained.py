"""The forward and gradient of a training step over a row's sequences, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, pack
from flaxen.models.model import Model, Params
from flaxen.models.params import compute_params
from flaxen.training.loss import token_logprobs

# Master parameters -> the loss, the log-probabilities [rows, T], and the gradient.
Step = Callable[[Params], tuple[tuple[jax.Array, jax.Array], Params]]


def training_step(model: Model, sequences: Sequence[tuple[int, ...]]) -> tuple[Step, Batch]:
    """A compiled step that trains all parameters in float32, and its batch: one packed row."""
    length = sum(len(each) - 1 for each in sequences)
    given = [TokenSequence(np.array(each, np.int32), np.ones(len(each))) for each in sequences]
    batch = collate(pack(given, length, len(given)), 1, length)

    def loss(masters: Params) -> tuple[jax.Array, jax.Array]:
        specs, dtype = model.param_specs, jnp.dtype("float32")
        params = compute_params(specs, masters, dtype=dtype, backend=model.backend)
        found = token_logprobs(model, params, batch)
        return -jnp.mean(found), found

    return jax.jit(jax.value_and_grad(loss, has_aux=True)), batch


def by_sequence(batch: Batch, values: Any) -> dict[tuple[int, ...], np.ndarray]:
    """A value for each token but the first, by the first tokens of its sequence."""
    row, segments = np.asarray(values)[0], batch.segment_ids[0]
    return {
        tuple(batch.tokens[0, segments == number].tolist()): row[segments == number]
        for number in range(1, segments.max() + 1)
    }


def by_name(tree: Params) -> dict[str, list[jax.Array]]:
    """The arrays of each parameter's name, over all layers."""
    found: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.setdefault(str(path[-1].key), []).append(leaf)
    return found


def moved(params: Params, name: str, direction: Params, distance: float) -> Params:
    """The parameters with those of one name moved along a direction."""

    def one(path: Any, leaf: jax.Array, along: jax.Array) -> jax.Array:
        return leaf + distance * along if path[-1].key == name else leaf

    return jax.tree_util.tree_map_with_path(one, params, direction)
