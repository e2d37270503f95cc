"""The compiled step as pure functions: from model, cache and rows to new tokens.

Deliberately does not know: requests, the scheduler, dispatching.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from flaxen.attention_kernels.paged_attention import page_axes
from flaxen.execution.rows import Rows
from flaxen.execution.sampling import BatchNeeds, Sampled, sample
from flaxen.execution.step_input import StepInput, StepLayout
from flaxen.execution.step_options import StepOptions
from flaxen.execution.verify import sampled_positions, write_drafts
from flaxen.kernels.awaited_mask import awaited_mask
from flaxen.kernels.linear.bound import expand
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls, layer_cache
from flaxen.models.adapters import with_adapters
from flaxen.models.cache import CacheSpec, State, head_sizes
from flaxen.models.expert_load import expert_load
from flaxen.models.layout import vocab_placement
from flaxen.models.model import Model, Params
from flaxen.protocol import LogprobsMode
from flaxen.scheduling.cache.groups import CacheGroup
from flaxen.structured.states import num_mask_words
from flaxen.token_sampling.logprobs import Logprobs, compute_logprobs


def empty_cache(
    model: Model, groups: tuple[CacheGroup, ...], page_size: int, dtype: jnp.dtype
) -> tuple[layer_cache.LayerCache, ...]:
    """Makes the cache: each layer's pages, in the layout of the model's backend, or its states."""
    group_of = {layer: i for i, group in enumerate(groups) for layer in group.layers}
    return tuple(
        layer_cache.empty_layer(
            spec,
            groups[group_of[layer]].num_pages,
            page_size,
            dtype,
            group=group_of[layer],
            backend=model.backend,
            placement=model.placement,
        )
        for layer, spec in enumerate(model.cache_specs)
    )


def page_shardings(model: Model) -> tuple[NamedSharding, ...] | None:
    """The sharding of each layer's cache on the model's mesh; None without a mesh.

    Each device of the tensor axis has all states.
    """
    placement = model.placement
    if placement is None:
        return None
    # Pages have whole heads for each device (`num_page_heads`), so any shape with them divides.
    sizes = {"kv_heads": placement.shape.tensor, "stages": model.num_stages}

    def sharding(spec: CacheSpec) -> NamedSharding:
        axes: tuple[str | None, ...] = ()
        if not isinstance(spec, State):
            axes = page_axes(*head_sizes(spec), backend=model.backend)
        if model.num_stages > 1:
            axes = ("stages", *axes)
        return placement.sharding(axes, [sizes.get(axis or "", 1) for axis in axes])

    return tuple(sharding(spec) for spec in model.cache_specs)


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
    needs: BatchNeeds,
    options: StepOptions,
    *,
    mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
) -> tuple[jax.Array, tuple[Any, ...], Sampled, jax.Array, jax.Array | None]:
    """Computes one whole step.

    Args:
      model: the model.
      layout: the layout of `packed`; static.
      num_top: K, how many of the likeliest tokens to report; static.
      num_tokens: T, static.
      params: the model's parameters; they may be bound.
      rows: settings and bias; its tokens are empty, because `tokens` is passed separately to be
          donated.
      tokens: [R, max length] int32; donated.
      cache: the KV pool; donated.
      packed: the step, packed by `layout`.
      needs: what any sequence of the step needs.
      options: inputs that only some steps have.
      mode: what is reported as log-probabilities; static.

    Returns:
      The updated tokens and cache, the samples [P] as in `sampled_positions`, all tokens' hidden
      states [T, D], and the load of the experts, or None. Samples that are not active are
      meaningless.
    """
    tokens, cache, last, hidden, load = run_forward(
        model, layout, num_tokens, params, tokens, cache, packed, options
    )
    if not model.generates:
        return tokens, cache, no_samples(packed.shape[0], num_top), hidden, load
    bitmask = None
    if options.mask_ticket is not None:
        shape = last.shape[0], num_mask_words(model.vocab_size)
        bitmask = awaited_mask(jnp.asarray(options.mask_ticket), last, shape)
    tokens, sampled = run_sample(
        model, layout, num_top, params, rows, tokens, packed, last, needs, bitmask, mode=mode
    )
    return tokens, cache, sampled, hidden, load


def run_forward(
    model: Model,
    layout: StepLayout,
    num_tokens: int,
    params: Params,
    tokens: jax.Array,
    cache: tuple[Any, ...],
    packed: jax.Array,
    options: StepOptions,
) -> tuple[jax.Array, tuple[Any, ...], jax.Array, jax.Array, jax.Array | None]:
    """Computes the hidden states of a step: all of it before sampling.

    Args:
      model, layout, num_tokens, params, tokens, cache, packed, options: as in `run_step`.

    Returns:
      The updated tokens and cache, the hidden states where the step samples [P, D] (zeros where it
      does not), all tokens' hidden states [T, D], and the load of the experts, or None.
    """
    params = expand(params)
    step = layout.unpack(packed)
    batches = step.paged_batches()
    batch = batches[0]  # equal in all groups for what concerns tokens
    tokens = write_drafts(tokens, step)
    ids, positions = _known_tokens(tokens, step, batch, num_tokens)
    adapted = params
    if options.lora is not None:
        adapted = with_adapters(params, *options.lora, _adapter_ids(step, batch, num_tokens))
    if model.is_encoder:
        attend = attention_impls.whole_prompts(batch, num_tokens, model.backend)
    else:
        attend = attention_impls.paged(batches, model.backend, model.placement)
    load = None
    if options.prompt_embeds is not None:
        embeds = options.prompt_embeds
        hidden, cache = model.forward_embeds(adapted, ids, positions, attend, cache, embeds)
    elif model.num_experts:
        hidden, cache, routings = model.routed_forward(adapted, ids, positions, attend, cache)
        load = expert_load(model, routings, ids >= 0)
    else:
        hidden, cache = model.forward(adapted, ids, positions, attend, cache)
    num_positions = layout.num_positions(packed.shape[0], num_tokens)
    where = sampled_positions(step, batch, num_positions)
    last = jnp.where(where.is_active[:, None], hidden[where.token], 0)
    return tokens, cache, last, hidden, load


def run_sample(
    model: Model,
    layout: StepLayout,
    num_top: int,
    params: Params,
    rows: Rows,
    tokens: jax.Array,
    packed: jax.Array,
    last: jax.Array,
    needs: BatchNeeds,
    grammar_bitmask: jax.Array | None,
    *,
    mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS,
) -> tuple[jax.Array, Sampled]:
    """Samples the tokens of a step.

    Args:
      model, layout, num_top, params, rows, tokens, packed, needs, mode: as in `run_step`.
      last: the hidden states where the step samples [P, D], from `run_forward`.
      grammar_bitmask: [P, ceil(V / 32)] uint32, as in `sampling.sample`; None allows all tokens.

    Returns:
      The updated tokens, and the samples [P].
    """
    step = layout.unpack(packed)
    where = sampled_positions(step, step.paged_batches()[0], last.shape[0])
    sampled = sample(
        model.unembed(expand(params), last),
        jnp.all(jnp.isfinite(last), axis=-1) & where.is_active,
        rows._replace(tokens=tokens),
        jnp.minimum(where.row, layout.num_rows - 1),
        where.position,
        needs,
        num_top,
        model.backend,
        grammar_bitmask,
        placement=vocab_placement(model),
        mode=mode,
    )
    # An index out of range is dropped.
    target = jnp.where(where.is_active, where.row, layout.num_rows)
    tokens = tokens.at[target, where.position].set(sampled.tokens, mode="drop")
    return tokens, sampled


def no_samples(num_seqs: int, num_top: int) -> Sampled:
    """The samples [S] of a model that predicts no tokens: nobody reads them."""
    ids, numbers = jnp.zeros(num_seqs, jnp.int32), jnp.zeros(num_seqs, jnp.float32)
    top = num_seqs, num_top
    logprobs = Logprobs(numbers, ids, jnp.zeros(top, jnp.int32), jnp.zeros(top, jnp.float32))
    return Sampled(ids, ids, logprobs)


def _known_tokens(
    tokens: jax.Array, step: StepInput, batch: PagedBatch, num_tokens: int
) -> tuple[jax.Array, jax.Array]:
    """The ids [T] and positions [T] of a step's tokens, from the rows' [R, max length].

    Padding has the id -1, whose embedding is zeros, and the position 0.
    """
    sequences = batch.token_sequences(num_tokens)
    positions = batch.token_positions(num_tokens)
    row = jnp.minimum(step.row, tokens.shape[0] - 1)  # padding reads any row
    known = tokens[row[sequences], jnp.maximum(positions, 0)]
    return jnp.where(positions < 0, -1, known), jnp.maximum(positions, 0)


def _adapter_ids(step: StepInput, batch: PagedBatch, num_tokens: int) -> jax.Array:
    """The adapter slot of each token, [T] int32; -1 for none, and for padding."""
    slots = step.adapter_slot[batch.token_sequences(num_tokens)]
    return jnp.where(batch.token_positions(num_tokens) < 0, -1, slots)


def prompt_logprobs(
    model: Model, num_top: int, params: Params, hidden: jax.Array, targets: jax.Array
) -> Logprobs:
    """The log-probabilities of the tokens [C] that follow the hidden states [C, D]."""
    logits = model.unembed(params, hidden)
    return compute_logprobs(logits, targets, num_top, model.backend, vocab_placement(model))


def shapes_of(tree: Any) -> Any:
    """The shapes, dtypes and places of a tree's arrays, to compile a step without them."""

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape_of, tree)
