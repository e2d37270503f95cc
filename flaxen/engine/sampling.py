"""Hidden states to tokens: penalties, filters, the draw, and log-probabilities. Pure functions.

Each row is a function of its own logits, settings and tokens only. Work that no row of the batch
asked for is skipped at run time, and adds nothing to the bits of rows that did not ask for it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.engine.filters import filter_min_p, filter_top_k, filter_top_p, row_sum
from flaxen.engine.rows import NO_TOKEN, Rows, RowSettings
from flaxen.models.model import logprobs

# Why a row has no token.
OK, NOT_FINITE, ALL_FORBIDDEN = 0, 1, 2


class Wants(NamedTuple):
    """What any sequence of the batch asks for: scalars, so that one compiled step serves all."""

    adjust: jax.Array  # bool: bias, penalties, bad words or min_tokens
    random: jax.Array  # bool: a temperature above 0
    filters: jax.Array  # bool: top-k, top-p or min-p
    logprobs: jax.Array  # bool


class Sampled(NamedTuple):
    """One step's samples, S rows."""

    tokens: jax.Array  # [S] int32
    status: jax.Array  # [S] int32: OK, NOT_FINITE or ALL_FORBIDDEN
    scores: Scores


class Scores(NamedTuple):
    """Log-probabilities; zeros where none were wanted."""

    logprob: jax.Array  # [S] float32, of the token
    rank: jax.Array  # [S] int32, 1 is the likeliest
    top_ids: jax.Array  # [S, K] int32, likeliest first
    top_logprobs: jax.Array  # [S, K] float32


def sample(
    logits: jax.Array,
    finite: jax.Array,
    rows: Rows,
    row_ids: jax.Array,
    lengths: jax.Array,
    wants: Wants,
    num_top: int,
) -> Sampled:
    """Chooses the next token of each sequence.

    Args:
      logits: float32 [S, V], the model's.
      finite: bool [S]; a row that is not, or whose logits are not, has no token.
      rows: the state of all rows.
      row_ids: int32 [S], the row of each sequence.
      lengths: int32 [S], its known tokens: the position of the new one.
      wants: what any of them asks for.
      num_top: K, how many of the likeliest tokens to report.
    """
    settings = RowSettings(*(field[row_ids] for field in rows.settings))
    adjusted = jax.lax.cond(
        wants.adjust,
        lambda x: _adjust(x, settings, rows.bias[row_ids], rows.tokens[row_ids], lengths),
        lambda x: x,
        logits,
    )
    greedy = _argmax(adjusted)
    tokens = jax.lax.cond(
        wants.random,
        lambda: jnp.where(
            settings.temperature > 0, _draw(adjusted, settings, lengths, wants), greedy
        ),
        lambda: greedy,
    )
    possible = jnp.max(adjusted, axis=-1) > -jnp.inf
    finite &= jnp.isfinite(row_sum(logits))  # XLA's max may pass over a NaN, a sum does not
    status = jnp.where(finite, jnp.where(possible, OK, ALL_FORBIDDEN), NOT_FINITE)
    scores = jax.lax.cond(
        wants.logprobs,
        lambda: score(logits, tokens, num_top),
        lambda: _no_scores(logits.shape[0], num_top),
    )
    return Sampled(tokens, status.astype(jnp.int32), scores)


def score(logits: jax.Array, tokens: jax.Array, num_top: int) -> Scores:
    """Log-probabilities of the tokens [S] and of the likeliest, from float32 logits [S, V]."""
    table = logprobs(logits)
    chosen = jnp.take_along_axis(table, tokens[:, None], axis=-1)
    rank = 1 + jnp.sum(table > chosen, axis=-1, dtype=jnp.int32)
    top_logprobs, top_ids = jax.lax.top_k(table, num_top)
    return Scores(chosen[:, 0], rank, top_ids, top_logprobs)


def _no_scores(num_rows: int, num_top: int) -> Scores:
    return Scores(
        jnp.zeros(num_rows),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros((num_rows, num_top), jnp.int32),
        jnp.zeros((num_rows, num_top)),
    )


def _argmax(logits: jax.Array) -> jax.Array:
    """As jnp.argmax, the first of equals, by two plain reductions: several times faster on CPU."""
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    is_largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(is_largest, ids[None], logits.shape[-1]), axis=-1)
    return jnp.minimum(first, logits.shape[-1] - 1)  # NaN equals nothing


def _adjust(
    logits: jax.Array, settings: RowSettings, bias: jax.Array, known: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Everything that changes single logits before the temperature, in vLLM's order."""
    num_seqs, vocab_size = logits.shape
    lines = jnp.arange(num_seqs)[:, None]
    logits = jnp.where(settings.has_bias[:, None], logits + bias, logits)

    # Bad words: the last token of one is forbidden where the output ends in the ones before it.
    words = settings.bad_words
    length = words.shape[-1]
    before = lengths[:, None] - (length - 1) + jnp.arange(length - 1)[None]
    tail = jnp.take_along_axis(known, jnp.maximum(before, 0), axis=-1)
    tail = jnp.where(before >= settings.num_prompt_tokens[:, None], tail, NO_TOKEN - 1)
    head = words[..., :-1]
    completes = jnp.all((head == NO_TOKEN) | (head == tail[:, None, :]), axis=-1)
    logits = logits.at[lines, jnp.where(completes, _index(words[..., -1]), vocab_size)].set(
        -jnp.inf, mode="drop"
    )

    # min_tokens: no stop id before it.
    too_short = (lengths < settings.min_length)[:, None]
    logits = logits.at[lines, jnp.where(too_short, _index(settings.stop_ids), vocab_size)].set(
        -jnp.inf, mode="drop"
    )

    # Penalties, https://arxiv.org/abs/1909.05858 (repetition) and OpenAI's API reference.
    position = jnp.arange(known.shape[-1])[None]
    is_known = position < lengths[:, None]
    is_output = is_known & (position >= settings.num_prompt_tokens[:, None])
    zeros = jnp.zeros((num_seqs, vocab_size))
    counts = zeros.at[lines, known].add(is_output.astype(jnp.float32), mode="drop")
    seen = zeros.at[lines, known].max(is_known.astype(jnp.float32), mode="drop") > 0
    repetition = settings.repetition_penalty[:, None]
    repeated = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits = jnp.where(seen & (repetition != 1), repeated, logits)
    logits = logits - settings.frequency_penalty[:, None] * counts
    return logits - settings.presence_penalty[:, None] * (counts > 0)


def _index(token_ids: jax.Array) -> jax.Array:
    """Ids for a scatter that drops NO_TOKEN: a negative index would count from the end."""
    return jnp.where(token_ids == NO_TOKEN, jnp.iinfo(jnp.int32).max, token_ids)


def _draw(logits: jax.Array, settings: RowSettings, lengths: jax.Array, wants: Wants) -> jax.Array:
    """Draws from each row's distribution by the inverse of its cumulative sum, in vocabulary order.

    The one uniform number comes from the row's own key, (seed, position): never from the batch.
    """
    temperature = jnp.where(settings.temperature > 0, settings.temperature, 1)
    # The largest becomes 0, which no temperature makes infinite.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / temperature[:, None]
    logits = jax.lax.cond(
        wants.filters,
        lambda x: filter_top_p(
            filter_top_k(filter_min_p(x, settings.min_p), settings.top_k), settings.top_p
        ),
        lambda x: x,
        logits,
    )
    mass = jnp.exp(logits)
    uniform = _uniform(settings.seed, lengths)

    # Two levels, since a long cumulative sum is slow in XLA: first the lane block, then the lane.
    lanes = 256
    num_seqs, vocab_size = mass.shape
    blocks = jnp.pad(mass, ((0, 0), (0, -vocab_size % lanes))).reshape(num_seqs, -1, lanes)
    block_mass = blocks.sum(axis=-1)
    block_ends = jnp.cumsum(block_mass, axis=-1)
    target = uniform * block_ends[:, -1]
    block = _first_above(block_ends, target, block_mass)
    start = jnp.where(block > 0, jnp.take_along_axis(block_ends, block[:, None] - 1, 1)[:, 0], 0)
    within = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    lane = _first_above(jnp.cumsum(within, axis=-1), target - start, within)
    return (block * lanes + lane).astype(jnp.int32)


def _first_above(ends: jax.Array, target: jax.Array, mass: jax.Array) -> jax.Array:
    """The first index with mass whose cumulative sum exceeds the target.

    Rounding may leave the target at or above the whole sum: then the last index with mass. And a
    sum in another order than from left to right may fall where nothing is added: hence `mass`.
    """
    num = ends.shape[-1]
    ids = jnp.arange(num)[None]
    first = jnp.min(jnp.where((mass > 0) & (ends > target[:, None]), ids, num), axis=-1)
    last = jnp.max(jnp.where(mass > 0, ids, 0), axis=-1)
    return jnp.minimum(first, last)


def _uniform(seed: jax.Array, position: jax.Array) -> jax.Array:
    """Uniform numbers in [0, 1) from (seed [S, 2], position [S]), float32 [S].

    The counter-based generator pcg3d of https://jcgt.org/published/0009/03/02/, section 4: one
    number a token is all that is needed, and jax.random's takes seconds to compile.
    """
    x, y, z = seed[:, 0], seed[:, 1], position.astype(jnp.uint32)
    x, y, z = (word * jnp.uint32(1664525) + jnp.uint32(1013904223) for word in (x, y, z))
    for turn in range(2):
        x = x + y * z
        y = y + z * x
        z = z + x * y
        if turn == 0:
            x, y, z = (word ^ (word >> 16) for word in (x, y, z))
    return jnp.multiply(x >> 8, jnp.float32(2**-24))
