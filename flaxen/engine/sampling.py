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
    """Draws from each row's distribution: the largest logit plus Gumbel noise.

    https://arxiv.org/abs/1611.01144, section 2. The noise comes from the row's own key (seed,
    position) and the token's id, never from the batch. Rounding can only change a draw whose two
    largest are within it, where the inverse of a cumulative sum has a boundary at every token.
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
    return _argmax(logits + _gumbel(settings.seed, lengths, logits.shape[-1]))


def _gumbel(seed: jax.Array, position: jax.Array, vocab_size: int) -> jax.Array:
    """Standard Gumbel numbers from (seed [S, 2], position [S], token id), float32 [S, V]."""
    key_x, key_y, key_z = _pcg3d(seed[:, 0], seed[:, 1], position.astype(jnp.uint32))
    ids = jnp.arange(vocab_size, dtype=jnp.uint32)[None]
    bits, _, _ = _pcg3d(key_x[:, None] ^ ids, key_y[:, None] + ids, key_z[:, None])
    # As -log(-log(1 - v)): float32 is fine-grained at small v, where the largest come from.
    v = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2**-32)
    return -jnp.log(-jnp.log1p(-jnp.minimum(v, jnp.float32(1 - 2**-24))))


def _pcg3d(x: jax.Array, y: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Three uint32 to three that look random: pcg3d, https://jcgt.org/published/0009/03/02/.

    A counter-based generator of a few operations: jax.random's takes seconds to compile.
    """
    x, y, z = (word * jnp.uint32(1664525) + jnp.uint32(1013904223) for word in (x, y, z))
    for turn in range(2):
        x = x + y * z
        y = y + z * x
        z = z + x * y
        if turn == 0:
            x, y, z = (word ^ (word >> 16) for word in (x, y, z))
    return x, y, z
