"""The compiled step as pure functions: a model, the cache and the rows to new tokens.

Deliberately does not know: requests, the scheduler, when it is called.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from flaxen.engine.cache.groups import CacheGroup
from flaxen.engine.rows import Rows
from flaxen.engine.sampling import Sampled, Scores, Wants, sample, score
from flaxen.engine.step_input import StepInput, StepLayout
from flaxen.kernels.linear.bound import expand
from flaxen.kernels.paged_attention import PagedBatch
from flaxen.models import attention_impls as attends
from flaxen.models.adapters import Adapters, with_adapters
from flaxen.models.cache import attention_only
from flaxen.models.model import Model, Params

Lora = tuple[Adapters, jax.Array]  # a stack of adapters, and their scales


def empty_cache(
    model: Model, groups: tuple[CacheGroup, ...], page_size: int, dtype: jnp.dtype
) -> tuple[attends.LayerPages, ...]:
    """The KV pool: the pages of each layer, in the form of the model's backend."""
    specs = attention_only(model.cache_specs)
    group_of = {layer: i for i, group in enumerate(groups) for layer in group.layers}
    return tuple(
        attends.empty_layer(
            spec,
            groups[group_of[layer]].num_pages,
            page_size,
            dtype,
            group=group_of[layer],
            backend=model.backend,
        )
        for layer, spec in enumerate(specs)
    )


def run_step(
    model: Model,
    layout: StepLayout,
    num_top: int,
    num_tokens: int,
    params: Params,
    rows: Rows,
    tokens: jax.Array,
    cache: tuple[Any, ...],
    packed: jax.Array,
    wants: Wants,
    lora: Lora | None,
) -> tuple[jax.Array, tuple[Any, ...], Sampled, jax.Array]:
    """A step from beginning to end.

    Args:
      model: the model.
      layout: of `packed`; static.
      num_top: K, how many of the likeliest tokens to report; static.
      num_tokens: T, static.
      params: the model's parameters; they may be bound.
      rows: settings and bias; its tokens are empty, since they come apart to be donated.
      tokens: [R, max length] int32; donated.
      cache: the KV pool; donated.
      packed: the step, as `layout` packed it.
      wants: what any sequence asks for.
      lora: the adapters; None where no sequence of the step has one, which compiles none in.

    Returns:
      The updated tokens and cache, the samples, and all tokens' hidden states [T, D]. Samples of
      sequences that do not sample mean nothing.
    """
    params = expand(params)
    step = layout.unpack(packed)
    batches = step.paged_batches()
    batch = batches[0]  # all say the same of the tokens
    ids, positions = _known_tokens(tokens, step, batch, num_tokens)
    adapted = params
    if lora is not None:
        adapted = with_adapters(params, *lora, _adapter_ids(step, batch, num_tokens))
    hidden, cache = model.forward(
        adapted, ids, positions, attends.paged(batches, model.backend), cache
    )
    last = _last_hidden(hidden, batch)
    tokens, sampled = _draw(model, num_top, params, rows, tokens, last, step, wants)
    return tokens, cache, sampled, hidden


def _known_tokens(
    tokens: jax.Array, step: StepInput, batch: PagedBatch, num_tokens: int
) -> tuple[jax.Array, jax.Array]:
    """The ids [T] and positions [T] of a step's tokens, from the rows' [R, max length].

    Padding has the id -1, whose embedding is zeros, and the position 0.
    """
    sequences = batch.token_sequences(num_tokens)
    positions = batch.token_positions(num_tokens)
    row = jnp.minimum(step.row, tokens.shape[0] - 1)  # padding reads any
    known = tokens[row[sequences], jnp.maximum(positions, 0)]
    return jnp.where(positions < 0, -1, known), jnp.maximum(positions, 0)


def _adapter_ids(step: StepInput, batch: PagedBatch, num_tokens: int) -> jax.Array:
    """The adapter slot of each token, [T] int32; -1 for none, and for padding."""
    slots = step.adapter_slot[batch.token_sequences(num_tokens)]
    return jnp.where(batch.token_positions(num_tokens) < 0, -1, slots)


def _last_hidden(hidden: jax.Array, batch: PagedBatch) -> jax.Array:
    """The hidden state of each sequence's last token, [S, D], from those of all, [T, D].

    Zeros for inactive sequences.
    """
    last = hidden[jnp.maximum(batch.cu_q_lens[1:] - 1, 0)]
    return jnp.where((batch.kv_lens > 0)[:, None], last, 0)


def _draw(
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
      model: as of `run_step`.
      num_top: as of `run_step`.
      params: the model's parameters.
      rows: as of `run_step`.
      tokens: as of `run_step`.
      hidden: [S, D] of the sequences' last tokens.
      step: the step.
      wants: as of `run_step`.
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


def score_prompt(
    model: Model, num_top: int, params: Params, hidden: jax.Array, targets: jax.Array
) -> Scores:
    """Log-probabilities of the tokens [C] that follow the hidden states [C, D]."""
    return score(model.unembed(params, hidden), targets, num_top)
