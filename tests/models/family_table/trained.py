"""The forward and gradient of a training step over a row's sequences, on any backend."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, pack
from flaxen.kernels.backend import Backend
from flaxen.models.model import Params
from flaxen.models.params import compute_params
from flaxen.training.loss import token_logprobs
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.family_table import row_of
from tests.models.family_table.checkpoint import made

# Tokens of the one packed row: of one size for all, so that a row compiles one step for a backend.
LENGTH = 160
# Master parameters, a batch -> the loss, the log-probabilities [rows, T], and the gradient.
Step = Callable[[Params, Batch], tuple[tuple[jax.Array, jax.Array], Params]]


@functools.cache
def step_of(name: str, backend: Backend) -> Step:
    """A row's step, which trains all parameters in float32: compiled once in a process."""
    model = open_checkpoint(made(row_of(name)).directory).model.on(backend)
    # Only tolerances are asked of XLA's gradient, and this halves the time to compile it.
    fast = {"xla_backend_optimization_level": 0} if backend is Backend.REFERENCE else None

    def loss(masters: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        specs, dtype = model.param_specs, jnp.dtype("float32")
        params = compute_params(specs, masters, dtype=dtype, backend=backend)
        found = token_logprobs(model, params, batch)
        return -jnp.sum(found) / jnp.sum(batch.targets >= 0), found

    step: Step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=fast)
    return step


def batch_of(sequences: Sequence[tuple[int, ...]]) -> Batch:
    """The sequences in one packed row."""
    given = [TokenSequence(np.array(each, np.int32), np.ones(len(each))) for each in sequences]
    return collate(pack(given, LENGTH, len(given)), 1, LENGTH)


def by_sequence(batch: Batch, values: Any) -> dict[tuple[int, ...], np.ndarray]:
    """A value for each token but the first, by the first tokens of its sequence."""
    row, segments = np.asarray(values)[0], batch.segment_ids[0]
    return {
        tuple(batch.tokens[0, segments == number].tolist()): row[segments == number]
        for number in range(1, segments.max() + 1)
    }


def by_name(tree: Params) -> dict[str, list[np.ndarray]]:
    """The arrays of each parameter's name, over all layers."""
    found: dict[str, list[np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found.setdefault(str(path[-1].key), []).append(np.asarray(leaf))
    return found


def moved(params: Params, name: str, direction: Params, distance: float) -> Params:
    """The parameters with those of one name moved along a direction, by NumPy, which compiles
    nothing.
    """

    def one(path: Any, leaf: Any, along: Any) -> Any:
        if path[-1].key != name:
            return leaf
        return np.asarray(leaf) + np.float32(distance) * np.asarray(along)

    return jax.tree_util.tree_map_with_path(one, params, direction)
