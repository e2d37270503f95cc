"""The compiled step as pure functions: a model, the cache and the rows to new tokens.

Deliberately does not know: requests, the scheduler, when it is called.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flaxen.engine.rows import Rows
from flaxen.engine.sampling import Sampled, Scores, Wants, sample, score
from flaxen.kernels import paged_attention
from flaxen.kernels.linear.bound import expand
from flaxen.kernels.paged_attention import PagedBatch
from flaxen.models import attention_impls as attends
from flaxen.models.adapters import Adapters, with_adapters
from flaxen.models.cache import Full, Sliding, attention_only
from flaxen.models.model import Model, Params

Lora = tuple[Adapters, jax.Array]  # a stack of adapters, and their scales


class StepInput(NamedTuple):
    """What the host says of a step, in one array: S sequences, padded with rows of R, no tokens."""

    # [S, 5 + P] int32: row, start, num_tokens, samples, adapter slot or -1, then the page table
    packed: jax.Array

    @property
    def row(self) -> jax.Array:
        return self.packed[:, 0]

    @property
    def start(self) -> jax.Array:
        return self.packed[:, 1]

    @property
    def num_tokens(self) -> jax.Array:
        return self.packed[:, 2]

    @property
    def samples(self) -> jax.Array:
        return self.packed[:, 3] > 0

    @property
    def adapter_slot(self) -> jax.Array:
        return self.packed[:, 4]

    def paged_batch(self) -> PagedBatch:
        """The same for attention."""
        cu_q_lens = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(self.num_tokens)])
        kv_lens = jnp.where(self.num_tokens > 0, self.start + self.num_tokens, 0)
        return PagedBatch(kv_lens, self.packed[:, 5:], cu_q_lens)


def empty_cache(
    model: Model, num_pages: int, page_size: int, dtype: jnp.dtype, *, use_native: bool
) -> tuple[Any, ...]:
    """The KV pool: the pages of each layer, for the C++ kernels or for XLA."""

    def pages(spec: Full | Sliding) -> Any:
        sizes = num_pages, page_size, spec.num_kv_heads, spec.head_dim
        return paged_attention.empty_cache(*sizes, dtype, use_native=use_native)

    return tuple(pages(spec) for spec in attention_only(model.cache_specs))


def prepare(
    tokens: jax.Array, step: StepInput, num_tokens: int
) -> tuple[jax.Array, jax.Array, PagedBatch]:
    """The ids [T] and positions [T] of a step's tokens, and the batch for attention.

    Padding has the id -1, whose embedding is zeros, and the position 0.

    Args:
      tokens: [R, max length] int32, the rows' tokens.
      step: the step.
      num_tokens: T, static.
    """
    batch = step.paged_batch()
    sequences = batch.token_sequences(num_tokens)
    positions = batch.token_positions(num_tokens)
    row = jnp.minimum(step.row, tokens.shape[0] - 1)  # padding reads any
    known = tokens[row[sequences], jnp.maximum(positions, 0)]
    return jnp.where(positions < 0, -1, known), jnp.maximum(positions, 0), batch


def adapter_ids(step: StepInput, batch: PagedBatch, num_tokens: int) -> jax.Array:
    """The adapter slot of each token, [T] int32; -1 for none, and for padding.

    Args:
      step: the step.
      batch: of the step.
      num_tokens: T, static.
    """
    slots = step.adapter_slot[batch.token_sequences(num_tokens)]
    return jnp.where(batch.token_positions(num_tokens) < 0, -1, slots)


def last_hidden(hidden: jax.Array, batch: PagedBatch) -> jax.Array:
    """The hidden state of each sequence's last token, [S, D], from those of all, [T, D].

    Zeros for padding.
    """
    last = hidden[jnp.maximum(batch.cu_q_lens[1:] - 1, 0)]
    return jnp.where((batch.kv_lens > 0)[:, None], last, 0)


def draw(
    model: Model,
    num_top: int,
    params: Params,
    rows: Rows,
    tokens: jax.Array,
    hidden: jax.Array,
    step: StepInput,
    wants: Wants,
) -> tuple[jax.Array, Sampled]:
    """Samples after each sequence's last token, and writes the new tokens to their rows.

    Args:
      model: the model.
      num_top: K, how many of the likeliest tokens to report; static.
      params: its parameters.
      rows: settings and bias; its tokens are empty, since they come apart to be donated.
      tokens: [R, max length] int32; donated.
      hidden: [S, D] of the sequences' last tokens.
      step: the step.
      wants: what any sequence asks for.

    Returns:
      The updated tokens, and the samples; those of sequences that do not sample mean nothing.
    """
    num_rows = tokens.shape[0]
    finite = jnp.all(jnp.isfinite(hidden), axis=-1) & step.samples
    lengths = step.start + step.num_tokens
    sampled = sample(
        model.unembed(params, hidden),
        finite,
        rows._replace(tokens=tokens),
        jnp.minimum(step.row, num_rows - 1),
        lengths,
        wants,
        num_top,
    )
    target = jnp.where(step.samples, step.row, num_rows)  # out of range: dropped
    return tokens.at[target, lengths].set(sampled.tokens, mode="drop"), sampled


def whole_step(
    model: Model,
    num_top: int,
    num_tokens: int,
    params: Params,
    rows: Rows,
    tokens: jax.Array,
    cache: tuple[Any, ...],
    step: StepInput,
    wants: Wants,
    lora: Lora | None,
) -> tuple[jax.Array, tuple[Any, ...], Sampled, jax.Array]:
    """A step from beginning to end.

    Args:
      model: the model.
      num_top: as of `draw`.
      num_tokens: T, static.
      params: the model's parameters; they may be bound.
      rows: as of `draw`.
      tokens: as of `draw`.
      cache: the KV pool; donated.
      step: the step.
      wants: what any sequence asks for.
      lora: the adapters; None where no sequence of the step has one.

    Returns:
      The updated tokens and cache, the samples, and all tokens' hidden states [T, D].
    """
    params = expand(params)
    ids, positions, batch = prepare(tokens, step, num_tokens)
    adapted = params
    if lora is not None:
        adapted = with_adapters(params, *lora, adapter_ids(step, batch, num_tokens))
    hidden, cache = model.forward(adapted, ids, positions, attends.paged(batch), cache)
    last = last_hidden(hidden, batch)
    tokens, sampled = draw(model, num_top, params, rows, tokens, last, step, wants)
    return tokens, cache, sampled, hidden


def score_prompt(
    model: Model, num_top: int, params: Params, hidden: jax.Array, targets: jax.Array
) -> Scores:
    """Log-probabilities of the tokens [C] that follow the hidden states [C, D]."""
    return score(model.unembed(params, hidden), targets, num_top)
