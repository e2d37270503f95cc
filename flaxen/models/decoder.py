"""The decoder: one definition for every family, configured by features.

Deliberately does not know: model names, what the parts of a layer compute, files.
Dimension key: D model, V vocabulary.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import Weight, embed, unembed
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.experts import Experts
from flaxen.models.layers.part import Routing, Step, vector
from flaxen.models.model import LAYER_INPUT, Attend, Cache, InputEmbeds, LayerForward, Model, Params
from flaxen.models.param_spec import Matrix, ParamSpec
from flaxen.models.rope import rope_tables
from flaxen.models.rope_config import RopeConfig

# Axes as in the unembedding, because the table may be tied to it.
_TABLE = Matrix(inputs=(1,), outputs=(0,))
RopeTables = tuple[jax.Array, jax.Array]  # cosines and sines, float32 [..., 1, R/2]


class _Shared(NamedTuple):
    """What the layers share: arrays over the tokens, so that a pipeline can divide them."""

    positions: jax.Array  # [..., 1]
    rope: tuple[RopeTables, ...]  # one for each of _rotations


def decoder(config: DecoderConfig) -> Model:
    """Makes the model of a configuration: functions and specs, no parameters."""
    return Model(
        forward_on=functools.partial(_forward, config),
        unembed_on=functools.partial(_unembed, config),
        embed_dim=config.model_dim,
        forward_embeds_on=functools.partial(_forward, config),
        final_norm_on=functools.partial(_final_norm, config),
        param_specs=_param_specs(config),
        cache_specs=tuple(layer.mixer.cache_spec() for layer in config.layers),
        vocab_size=config.vocab_size,
        max_position=config.default_context,
        for_context_on=(
            functools.partial(_for_context, config)
            if config.default_context < config.longest_context
            else None
        ),
        has_layers=True,
        sizes=config.sizes,
        in_layers=LayerForward(
            first_on=functools.partial(_first, config),
            layer_on=functools.partial(_one_layer, config),
        ),
        num_experts=tuple(each for each in map(_num_experts, config.layers) if each),
        routed_forward_on=functools.partial(_routed_forward, config),
        pads_with_zeros=not any(map(_has_biases, config.layers)),
    )


def _for_context(config: DecoderConfig, length: int) -> Model:
    return decoder(config.for_context(length))


def _num_experts(layer: LayerConfig) -> int:
    return layer.mlp.num_experts if isinstance(layer.mlp, Experts) else 0


def _has_biases(layer: LayerConfig) -> bool:
    """Whether a bias makes the padding of a layer's outputs differ from zeros. Those of queries,
    keys and values don't: attention gives zeros for padding.
    """
    names = layer.param_specs(1).keys() - {"bq", "bk", "bv", "b_router_selection", "dt_bias"}
    return any(name.startswith("b") or name.endswith("_bias") for name in names)


def _forward(*arguments: Any) -> tuple[jax.Array, Cache]:
    """`_routed_forward` without the routing."""
    return _routed_forward(*arguments)[:2]


def _routed_forward(
    config: DecoderConfig,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    cache: Cache,
    embeds: InputEmbeds | None = None,
) -> tuple[jax.Array, Cache, tuple[Routing, ...]]:
    """The forward, unrolled over the layers: on CPU a scan, which slices stacked weights, takes
    over twice as long. Also returns the routing of each layer that has experts.

    Each part is a jit of its own, so that one layer is traced for all.
    """
    x, shared = _first(config, backend, params, tokens, positions, embeds)
    entries, routings = [], []
    for number, (p, entry) in enumerate(zip(params["layers"], cache, strict=True)):
        x, entry, routing = _routed_layer(config, backend, number, p, x, shared, attend, entry)
        entries.append(entry)
        if routing is not None:
            routings.append(routing)
    return x, tuple(entries), tuple(routings)


def _first(
    config: DecoderConfig,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    embeds: InputEmbeds | None = None,
) -> tuple[jax.Array, _Shared]:
    """The input of the first layer, and what all layers share."""
    dtype = params["final_norm"].dtype
    table = params.get("positions")
    x, tables = _embed(config, backend, dtype, params["embed"], table, tokens, positions)
    if embeds is not None:
        x = jnp.where(embeds.is_given[..., None], embeds.values.astype(dtype), x)
    return x, _Shared(positions=positions[..., None], rope=tables)


def _one_layer(*arguments: Any) -> tuple[jax.Array, Any]:
    """`_routed_layer` without the routing."""
    return _routed_layer(*arguments)[:2]


def _routed_layer(
    config: DecoderConfig,
    backend: Backend,
    number: int,
    p: Params,
    x: jax.Array,
    shared: _Shared,
    attend: Attend,
    entry: Any,
) -> tuple[jax.Array, Any, Routing | None]:
    layer = config.layers[number]
    rotation = layer.mixer.rotation
    rope = None if rotation is None else shared.rope[_rotations(config).index(rotation)]
    step = Step(positions=shared.positions[..., 0], rope=rope, attend=attend)
    found: tuple[jax.Array, Any, Routing | None] = _layer(layer, backend, p, x, step, entry)
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _embed(
    config: DecoderConfig,
    backend: Backend,
    dtype: jnp.dtype,
    table: Weight,
    position_table: jax.Array | None,
    tokens: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, tuple[RopeTables, ...]]:
    x = embed(table, tokens, dtype, backend=backend)
    if config.embed_scale != 1:
        x = x * jnp.asarray(config.embed_scale, dtype)
    if position_table is not None:
        x = x + embed(position_table, positions, dtype, backend=backend)
    return x, tuple(rope_tables(*each, positions) for each in _rotations(config))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=5)
def _layer(
    layer: LayerConfig, backend: Backend, p: Params, x: jax.Array, step: Step, entry: Any
) -> tuple[jax.Array, Any, Routing | None]:
    return layer(p, checkpoint_name(x, LAYER_INPUT), step, entry, backend)


@functools.cache
def _rotations(config: DecoderConfig) -> tuple[tuple[RopeConfig, int], ...]:
    """The different ropes of the layers, with the size of the heads that they rotate."""
    found = dict.fromkeys(layer.mixer.rotation for layer in config.layers)
    return tuple(each for each in found if each is not None)


def _final_norm(
    config: DecoderConfig, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    return config.final_norm(params, "final_norm", hidden, backend=backend)


def _unembed(
    config: DecoderConfig, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    table = params["unembed"] if "unembed" in params else params["embed"]
    norm = config.final_norm.fused(params, "final_norm")
    h = hidden if norm is not None else _final_norm(config, backend, params, hidden)
    logits = unembed(h, table, norm, backend=backend)
    if config.unembed_bias:
        logits = logits + jnp.broadcast_to(params["unembed_bias"], logits.shape)
    if config.logit_scale != 1:
        logits = logits * config.logit_scale
    if config.logit_softcap is not None:
        capped = activation(logits / config.logit_softcap, "tanh", backend=backend)
        logits = config.logit_softcap * capped
    return logits


def _param_specs(config: DecoderConfig) -> dict[str, Any]:
    d = config.model_dim
    table = ParamSpec(
        shape=(config.vocab_size, d), axes=("vocab", "model"), role="table", matrix=_TABLE
    )
    specs: dict[str, Any] = {
        "embed": table,
        "layers": tuple(layer.param_specs(d) for layer in config.layers),
        **config.final_norm.param_specs("final_norm", d),
    }
    if config.learned_positions:
        specs["positions"] = ParamSpec(
            shape=(config.max_position, d), axes=(None, "model"), role="table"
        )
    if not config.tied_embeddings:
        specs["embed"] = replace(table, lookup_only=True)
        specs["unembed"] = table
    if config.unembed_bias:
        specs["unembed_bias"] = vector((config.vocab_size,), ("vocab",), "zeros")
    return specs
