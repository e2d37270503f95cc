"""The log-probabilities of sampled tokens and of the likeliest ones, in each of vLLM's modes.

Deliberately does not know: requests, how logits are changed before the temperature.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from flaxen.kernels.backend import Backend
from flaxen.kernels.log_softmax import log_softmax
from flaxen.protocol import LogprobsMode
from flaxen.sharding.placement import Placement
from flaxen.token_sampling.reference import filtered


class Logprobs(NamedTuple):
    """Log-probabilities; zeros if the batch needs none."""

    logprob: jax.Array  # [S] float32, of the sampled token
    rank: jax.Array  # [S] int32, 1 is the likeliest
    top_ids: jax.Array  # [S, K] int32, likeliest first
    top_logprobs: jax.Array  # [S, K] float32
    # [S] float32: how much of a row's probability the filters keep; None: the mode is raw.
    kept_mass: jax.Array | None = None


class Filters(NamedTuple):
    """What a row's token is sampled with, as `token_sampling.sample` takes it; each [S]."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array


class Wanted(NamedTuple):
    """Which log-probabilities are reported of each row."""

    tokens: jax.Array  # [S] int32, the sampled ones
    num_top: int  # K, how many of the likeliest
    # [S, N] int32: tokens that are reported in place of the likeliest, padded with -1, of which the
    # first K count; a row without any has the likeliest. None: no row has any.
    named: jax.Array | None = None


def compute_logprobs(
    logits: jax.Array,
    tokens: jax.Array,
    num_top: int,
    backend: Backend,
    placement: Placement | None = None,
) -> Logprobs:
    """The log-probabilities under the model's own distribution.

    Args:
      logits: float32 [S, V].
      tokens: [S].
      num_top: K.
      backend: what computes.
      placement: the mesh over which the vocabulary is divided; None if each device has all of it.
    """
    table = log_softmax(logits, backend=backend)
    return _describe(table, Wanted(tokens, num_top), placement, None)


def report_logprobs(
    logits: jax.Array,
    changed: jax.Array,
    filters: Filters,
    wanted: Wanted,
    mode: LogprobsMode,
    backend: Backend,
    placement: Placement | None = None,
) -> Logprobs:
    """What a mode reports.

    Args:
      logits: float32 [S, V], from the model.
      changed: the same after bias, penalties and masks; only read if the mode is processed.
      filters: of the rows.
      wanted: of which tokens.
      mode: what is reported.
      backend, placement: as in `compute_logprobs`.
    """
    if mode is LogprobsMode.RAW_LOGPROBS:
        return _describe(log_softmax(logits, backend=backend), wanted, placement, None)
    if mode is LogprobsMode.RAW_LOGITS:
        return _describe(logits, wanted, placement, None)
    num_parts = 1 if placement is None else placement.shape.tensor
    is_random = filters.temperature > 0
    # Where the largest logit is 0, as the sampler has it.
    largest = jnp.max(changed, axis=-1, keepdims=True)
    divisor = jnp.where(is_random, filters.temperature, 1)[:, None]
    scaled = (changed - largest) / divisor
    kept = jnp.where(is_random[:, None], filtered(changed, *filters, num_parts), scaled)
    total = jax.nn.logsumexp(kept, axis=-1)
    mass = jnp.exp(total - jax.nn.logsumexp(scaled, axis=-1))
    is_logits = mode is LogprobsMode.PROCESSED_LOGITS
    table = kept + largest / divisor if is_logits else kept - total[:, None]
    return _describe(table, wanted, placement, mass)


def no_logprobs(num_rows: int, num_top: int, mode: LogprobsMode) -> Logprobs:
    """What takes the place of log-probabilities that nobody wants."""
    return Logprobs(
        jnp.zeros(num_rows),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros((num_rows, num_top), jnp.int32),
        jnp.zeros((num_rows, num_top)),
        jnp.zeros(num_rows) if mode.is_processed else None,
    )


def _describe(
    table: jax.Array,
    wanted: Wanted,
    placement: Placement | None,
    kept_mass: jax.Array | None,
) -> Logprobs:
    """The values of the wanted tokens in a table [S, V]."""
    chosen = jnp.take_along_axis(table, wanted.tokens[:, None], axis=-1)
    rank = 1 + jnp.sum(table > chosen, axis=-1, dtype=jnp.int32)
    top_logprobs, top_ids = _top(table, wanted.num_top, placement)
    if wanted.named is not None:
        num = min(wanted.num_top, wanted.named.shape[-1])
        named = wanted.named[:, :num]
        there = jnp.maximum(named, 0)
        has_any = wanted.named[:, :1] >= 0
        values = jnp.take_along_axis(table, there, axis=-1)
        top_ids = top_ids.at[:, :num].set(jnp.where(has_any, there, top_ids[:, :num]))
        top_logprobs = top_logprobs.at[:, :num].set(
            jnp.where(has_any, values, top_logprobs[:, :num])
        )
    return Logprobs(chosen[:, 0], rank, top_ids, top_logprobs, kept_mass)


def _top(
    table: jax.Array, num_top: int, placement: Placement | None
) -> tuple[jax.Array, jax.Array]:
    """The largest values and their places, as `jax.lax.top_k`.

    On a mesh each device finds the largest of its own part of the vocabulary, and only these are
    gathered. Among equal values the first counts, as in the whole, because the parts are in order.

    Args:
      table: [S, V].
      num_top: K.
      placement: as in `compute_logprobs`.
    """
    if placement is None:
        return jax.lax.top_k(table, num_top)

    def of_part(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, places = jax.lax.top_k(part, min(num_top, part.shape[-1]))
        return values, places + jax.lax.axis_index("tensor") * part.shape[-1]

    divided = P(None, "tensor")
    values, places = jax.shard_map(
        of_part, mesh=placement.mesh, in_specs=divided, out_specs=divided
    )(table)
    top_values, which = jax.lax.top_k(values, num_top)
    return top_values, jnp.take_along_axis(places, which, axis=-1)
