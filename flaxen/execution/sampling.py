"""From logits to tokens: bias and penalties, sampling (`token_sampling`), log-probabilities.

A row's result depends on its own logits, settings and tokens only. Work that no row of the batch
needs is skipped at run time; a row that does not need it gets the same bits either way.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.execution.rows import NO_TOKEN, RowBias, Rows, RowSettings, allows
from flaxen.kernels.backend import Backend
from flaxen.protocol import LogprobsMode
from flaxen.scheduling.executor import RowFailure
from flaxen.sharding.placement import Placement
from flaxen.token_sampling import row_sum
from flaxen.token_sampling import sample as choose
from flaxen.token_sampling.logprobs import (
    Filters,
    Logprobs,
    Wanted,
    no_logprobs,
    report_logprobs,
)

_FORBIDDEN = -1e30  # the logit of a token that a bitmask forbids
OK = 0  # a row's status; otherwise the value of a RowFailure


class BatchNeeds(NamedTuple):
    """The work that any sequence of the batch needs, as scalars, so that one compiled step serves
    all batches.
    """

    adjust: jax.Array  # bool: bias, penalties, bad words or min_tokens
    logprobs: jax.Array  # bool


class Sampled(NamedTuple):
    """One step's samples, at S positions; with drafts a sequence has several of them."""

    tokens: jax.Array  # [S] int32
    status: jax.Array  # [S] int32: OK, or the value of a RowFailure
    logprobs: Logprobs


def sample(
    logits: jax.Array,
    finite: jax.Array,
    rows: Rows,
    row_ids: jax.Array,
    lengths: jax.Array,
    needs: BatchNeeds,
    num_top: int,
    backend: Backend,
    bitmask: jax.Array | None = None,
    *,
    placement: Placement | None = None,
    mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
) -> Sampled:
    """Samples the next token of each sequence.

    Args:
      logits: float32 [S, V], from the model.
      finite: bool [S]; inactive rows (False) cost nothing. Rows that are inactive, or whose logits
          are not finite, get no token.
      rows: the state of all rows.
      row_ids: int32 [S], the row of each sequence.
      lengths: int32 [S], its known tokens: the position of the new token.
      needs: what any row of the batch needs.
      num_top: K, the number of likeliest tokens to report.
      backend: what computes.
      bitmask: uint32 [S, ceil(V / 32)]: bit v % 32 of number v // 32 allows token v. None allows
          all.
      placement: the mesh over which the vocabulary is divided; None if each device has all of it.
      mode: what is reported as log-probabilities.
    """
    settings = RowSettings(*(field[row_ids] for field in rows.settings))
    num_parts = 1 if placement is None else placement.shape.tensor

    def sample_rows(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        return choose(
            logits,
            settings.temperature,
            settings.top_k,
            settings.top_p,
            settings.min_p,
            settings.seed,
            lengths,
            finite,
            num_parts=num_parts,
            backend=backend,
        )

    def adjust() -> jax.Array:
        bias = RowBias(*(field[row_ids] for field in rows.bias))
        return _adjust(logits, settings, bias, rows.tokens[row_ids], lengths, bitmask)

    def sample_adjusted() -> tuple[jax.Array, jax.Array, jax.Array]:
        adjusted = adjust()
        # Adjusting forbids tokens with -inf, so the model's own logits show whether they are
        # finite.
        is_finite = finite & jnp.isfinite(row_sum(logits, num_parts))
        return sample_rows(adjusted)[0], is_finite, jnp.max(adjusted, axis=-1) > -jnp.inf

    def sample_unadjusted() -> tuple[jax.Array, jax.Array, jax.Array]:
        if bitmask is None:
            return *sample_rows(logits), jnp.ones_like(finite)
        # A finite number, so that the sampler itself still sees whether the logits are finite: its
        # probability is 0 too.
        masked = jnp.where(allows(bitmask, logits.shape[-1]), logits, _FORBIDDEN)
        return *sample_rows(masked), jnp.any(bitmask, axis=-1)

    # Everything is in the branch, because a cond that returned logits would copy them.
    tokens, finite, possible = jax.lax.cond(needs.adjust, sample_adjusted, sample_unadjusted)
    impossible, broken = RowFailure.NO_TOKEN_ALLOWED.value, RowFailure.NOT_FINITE.value
    status = jnp.where(finite, jnp.where(possible, OK, impossible), broken)

    def report() -> Logprobs:
        changed = logits
        if mode.is_processed:
            changed = jax.lax.cond(needs.adjust, adjust, lambda: _masked(logits, bitmask))
        filters = Filters(*(getattr(settings, name) for name in Filters._fields))
        found = Wanted(tokens, num_top, settings.logprob_ids)
        return report_logprobs(logits, changed, filters, found, mode, backend, placement)

    logprobs = jax.lax.cond(
        needs.logprobs,
        report,
        lambda: no_logprobs(logits.shape[0], num_top, mode),
    )
    return Sampled(tokens, status.astype(jnp.int32), logprobs)


def _masked(logits: jax.Array, bitmask: jax.Array | None) -> jax.Array:
    if bitmask is None:
        return logits
    return jnp.where(allows(bitmask, logits.shape[-1]), logits, -jnp.inf)


def _adjust(
    logits: jax.Array,
    settings: RowSettings,
    bias: RowBias,
    known: jax.Array,
    lengths: jax.Array,
    bitmask: jax.Array | None,
) -> jax.Array:
    """Applies everything that changes logits before the temperature, in vLLM's order."""
    num_seqs, vocab_size = logits.shape
    lines = jnp.arange(num_seqs)[:, None]
    has_bias = settings.has_bias[:, None]
    logits = jnp.where(has_bias & ~allows(bias.allowed, vocab_size), -jnp.inf, logits)
    if bitmask is not None:
        logits = jnp.where(allows(bitmask, vocab_size), logits, -jnp.inf)

    # The last token of a bad word is forbidden if it would complete the word.
    words = settings.bad_words
    completes = _completes(words, known, lengths, settings.num_prompt_tokens)
    # min_tokens: no stop id before that length.
    too_short = (lengths < settings.min_length)[:, None]

    # All in one scatter, because XLA takes long to compile each, and runs it one index at a time.
    # -inf stays -inf, whatever is added to it.
    changes = (
        (bias.ids, bias.values, has_bias),
        (words[..., -1], -jnp.inf, completes),
        (settings.stop_ids, -jnp.inf, too_short),
    )
    ids = [jnp.where(wanted & (each != NO_TOKEN), each, vocab_size) for each, _, wanted in changes]
    values = [jnp.broadcast_to(value, each.shape) for each, value, _ in changes]
    logits = logits.at[lines, jnp.concatenate(ids, axis=-1)].add(
        jnp.concatenate(values, axis=-1), mode="drop"
    )
    return _penalised(logits, settings, known, lengths)


def _completes(
    words: jax.Array, known: jax.Array, lengths: jax.Array, num_prompt_tokens: jax.Array
) -> jax.Array:
    """Whether the output ends with all tokens of a bad word but its last, bool [S, words]."""
    length = words.shape[-1]
    before = lengths[:, None] - (length - 1) + jnp.arange(length - 1)[None]
    tail = jnp.take_along_axis(known, jnp.maximum(before, 0), axis=-1)
    tail = jnp.where(before >= num_prompt_tokens[:, None], tail, NO_TOKEN - 1)
    head = words[..., :-1]
    return jnp.all((head == NO_TOKEN) | (head == tail[:, None, :]), axis=-1)


def _penalised(
    logits: jax.Array, settings: RowSettings, known: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Applies the penalties: https://arxiv.org/abs/1909.05858 (repetition), and as in OpenAI's API
    reference.
    """
    num_seqs, vocab_size = logits.shape
    lines = jnp.arange(num_seqs)[:, None]
    position = jnp.arange(known.shape[-1])[None]
    is_known = position < lengths[:, None]
    is_output = position >= settings.num_prompt_tokens[:, None]
    # How often each token is in the prompt and in the output, by one scatter too.
    kind, place = is_output.astype(jnp.int32), jnp.where(is_known, known, vocab_size)
    both = jnp.zeros((num_seqs, 2, vocab_size)).at[lines, kind, place].add(1, mode="drop")
    counts = both[:, 1]
    seen = both[:, 0] + counts > 0
    repetition = settings.repetition_penalty[:, None]
    repeated = jnp.where(logits > 0, logits / repetition, logits * repetition)
    logits = jnp.where(seen & (repetition != 1), repeated, logits)
    logits = logits - settings.frequency_penalty[:, None] * counts
    return logits - settings.presence_penalty[:, None] * (counts > 0)
