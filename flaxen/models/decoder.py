"""The decoder: one definition for every family, configured by features.

Deliberately does not know: model names, how attention is computed or cached, files.
Dimension key: D model, F mlp, N query heads, K kv heads, H head dim, V vocabulary, L layers.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import Weight, embed, gated_linear, linear, linears, unembed
from flaxen.kernels.rms_norm import rms_norm
from flaxen.kernels.rope import apply_rope
from flaxen.models.cache import CacheSpec, attention_cache
from flaxen.models.config import DecoderConfig
from flaxen.models.model import (
    LAYER_INPUT,
    Attend,
    AttentionSpec,
    Cache,
    Init,
    InputEmbeds,
    LayerForward,
    Matrix,
    Model,
    Params,
    ParamSpec,
)
from flaxen.models.rope import rope_tables

_WEIGHT = Matrix(inputs=(0,), outputs=(1,))
# Axes as in the unembedding, because the table may be tied to it.
_TABLE = Matrix(inputs=(1,), outputs=(0,))


def decoder(config: DecoderConfig) -> Model:
    """Makes the model of a configuration: functions and specs, no parameters."""
    return Model(
        forward_on=functools.partial(_forward, config),
        unembed_on=functools.partial(_unembed, config),
        embed_dim=config.model_dim,
        forward_embeds_on=functools.partial(_forward, config),
        final_norm_on=functools.partial(_final_norm, config),
        param_specs=_param_specs(config),
        cache_specs=_cache_specs(config),
        vocab_size=config.vocab_size,
        max_position=config.max_position,
        has_layers=True,
        in_layers=LayerForward(
            first_on=functools.partial(_first, config),
            layer_on=functools.partial(_one_layer, config),
        ),
    )


def _forward(
    config: DecoderConfig,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    cache: Cache,
    embeds: InputEmbeds | None = None,
) -> tuple[jax.Array, Cache]:
    """The forward, unrolled over the layers: on CPU a scan, which slices stacked weights, takes
    over twice as long.

    Each part is a jit of its own, so that one layer is traced for all.
    """
    x, rope = _first(config, backend, params, tokens, positions, embeds)
    entries = []
    for number, (p, entry) in enumerate(zip(params["layers"], cache, strict=True)):
        x, entry = _one_layer(config, backend, number, p, x, rope, attend, entry)
        entries.append(entry)
    return x, tuple(entries)


def _first(
    config: DecoderConfig,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    embeds: InputEmbeds | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """The input of the first layer, and the tables of the rotary embedding for all layers."""
    dtype = params["final_norm"].dtype
    x, cos, sin = _embed(config, backend, dtype, params["embed"], tokens, positions)
    if embeds is not None:
        x = jnp.where(embeds.is_given[..., None], embeds.values.astype(dtype), x)
    return x, (cos, sin)


def _one_layer(
    config: DecoderConfig,
    backend: Backend,
    number: int,
    p: Params,
    x: jax.Array,
    rope: tuple[jax.Array, jax.Array],
    attend: Attend,
    entry: Any,
) -> tuple[jax.Array, Any]:
    spec = AttentionSpec(window=config.windows[number])
    found: tuple[jax.Array, Any] = _layer(config, backend, spec, attend, p, x, *rope, entry)
    return found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _embed(
    config: DecoderConfig,
    backend: Backend,
    dtype: jnp.dtype,
    table: Weight,
    tokens: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x = embed(table, tokens, dtype, backend=backend)
    return x, *rope_tables(config.rope, config.head_dim, positions)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=8)
def _layer(
    config: DecoderConfig,
    backend: Backend,
    spec: AttentionSpec,
    attend: Attend,
    p: Params,
    x: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    entry: Any,
) -> tuple[jax.Array, Any]:
    eps = config.norm_eps
    x = checkpoint_name(x, LAYER_INPUT)
    q, k, v = linears(
        x,
        (p["wq"], p["wk"], p["wv"]),
        (p.get("bq"), p.get("bk"), p.get("bv")),
        norm=(p["attn_norm"], eps),
        backend=backend,
    )
    q, k, v = (
        _heads(q, config.num_heads),
        _heads(k, config.num_kv_heads),
        _heads(v, config.num_kv_heads),
    )
    if config.qk_norm:
        q = rms_norm(q, p["q_norm"], eps, backend=backend)
        k = rms_norm(k, p["k_norm"], eps, backend=backend)
    q, k = (apply_rope(x, cos, sin, backend=backend) for x in (q, k))
    out, entry = attend(spec, q, k, v, entry)
    x = linear(out.reshape(*x.shape[:-1], -1), p["wo"], p.get("bo"), residual=x, backend=backend)
    h = gated_linear(
        x,
        p["w_gate"],
        p["w_up"],
        (p.get("b_gate"), p.get("b_up")),
        norm=(p["mlp_norm"], eps),
        backend=backend,
    )
    return linear(h, p["w_down"], p.get("b_down"), residual=x, backend=backend), entry


def _heads(x: jax.Array, num_heads: int) -> jax.Array:
    return x.reshape(*x.shape[:-1], num_heads, -1)


def _final_norm(
    config: DecoderConfig, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    return rms_norm(hidden, params["final_norm"], config.norm_eps, backend=backend)


def _unembed(
    config: DecoderConfig, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    table = params["unembed"] if "unembed" in params else params["embed"]
    return unembed(hidden, table, (params["final_norm"], config.norm_eps), backend=backend)


def _cache_specs(config: DecoderConfig) -> tuple[CacheSpec, ...]:
    return tuple(
        attention_cache(config.num_kv_heads, config.head_dim, window) for window in config.windows
    )


def _param_specs(config: DecoderConfig) -> dict[str, Any]:
    d, f, h = config.model_dim, config.mlp_dim, config.head_dim
    q_dim, kv_dim = config.num_heads * h, config.num_kv_heads * h
    weights = {  # [in, out]
        "wq": _weight((d, q_dim), ("model", "heads"), head_dim=h),
        "wk": _weight((d, kv_dim), ("model", "kv_heads"), head_dim=h),
        "wv": _weight((d, kv_dim), ("model", "kv_heads"), head_dim=h),
        "wo": _weight((q_dim, d), ("heads", "model"), "residual", head_dim=h),
        "w_gate": _weight((d, f), ("model", "mlp")),
        "w_up": _weight((d, f), ("model", "mlp")),
        "w_down": _weight((f, d), ("mlp", "model"), "residual"),
    }
    layer = {
        "attn_norm": _vector((d,), ("model",), "ones"),
        "mlp_norm": _vector((d,), ("model",), "ones"),
        **weights,
    }
    for name in config.biases:
        spec = weights[name]
        bias = _vector(spec.shape[1:], spec.axes[1:], "zeros")
        layer["b" + name[1:]] = replace(bias, head_dim=spec.head_dim)
    if config.qk_norm:
        layer["q_norm"] = _vector((h,), ("head_dim",), "ones")
        layer["k_norm"] = _vector((h,), ("head_dim",), "ones")
    table = ParamSpec(
        shape=(config.vocab_size, d), axes=("vocab", "model"), role="table", matrix=_TABLE
    )
    specs: dict[str, Any] = {
        "embed": table,
        "layers": tuple(dict(layer) for _ in range(config.num_layers)),
        "final_norm": _vector((d,), ("model",), "ones"),
    }
    if not config.tied_embeddings:
        specs["embed"] = replace(table, lookup_only=True)
        specs["unembed"] = table
    return specs


def _weight(
    shape: tuple[int, int], axes: tuple[str, str], init: Init = "normal", *, head_dim: int = 1
) -> ParamSpec:
    return ParamSpec(
        shape=shape, axes=axes, role="matrix", matrix=_WEIGHT, init=init, head_dim=head_dim
    )


def _vector(shape: tuple[int, ...], axes: tuple[str | None, ...], init: Init) -> ParamSpec:
    return ParamSpec(shape=shape, axes=axes, role="vector", init=init)
