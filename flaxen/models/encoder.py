"""The encoder: one definition for the families in BERT's form, configured by features.

A token's type stands in its id: token t of type y is the id t + y * vocab_size (decision 0290).
Deliberately does not know: model names, pooling, files.
Dimension key: D model, F mlp, N heads, H head dim, V vocabulary, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from flaxen.kernels.backend import Backend
from flaxen.kernels.layer_norm import layer_norm
from flaxen.kernels.linear import embed
from flaxen.models.byte_linear import GeluName, byte_linear
from flaxen.models.encoder_config import Activation, EncoderConfig
from flaxen.models.head import apply_head, head_specs
from flaxen.models.layers.mlp import ACTIVATIONS
from flaxen.models.model import LAYER_INPUT, Attend, AttentionSpec, Cache, Model, Params
from flaxen.models.param_spec import Init, Matrix, ParamSpec

_SPEC = AttentionSpec(causal=False)
_GELUS: Mapping[Activation, GeluName] = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
_TABLE = Matrix(inputs=(1,), outputs=(0,))


def encoder(config: EncoderConfig) -> Model:
    """Makes the model of a configuration: functions and specs, no parameters."""
    head = config.head
    return Model(
        forward_on=functools.partial(_forward, config),
        unembed_on=_no_logits,
        final_norm_on=_as_it_is,
        param_specs=_param_specs(config),
        cache_specs=(),
        vocab_size=config.num_input_ids,
        max_position=config.max_position,
        generates=False,
        is_encoder=True,
        head_on=None if head is None else functools.partial(apply_head, head),
    )


def _forward(
    config: EncoderConfig,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    outside = {name: each for name, each in params.items() if name != "layers"}
    x = _embed(config, backend, outside, tokens, positions)
    for p in params["layers"]:
        x = _layer(config, backend, attend, p, x)
    return x, cache


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embed(
    config: EncoderConfig, backend: Backend, p: Params, tokens: jax.Array, positions: jax.Array
) -> jax.Array:
    dtype = p["embed_norm"].dtype
    is_token = tokens >= 0
    ids = jnp.where(is_token, tokens % config.vocab_size, -1)
    x = embed(p["embed"], ids, dtype, backend=backend).astype(jnp.float32)
    x = x + p["positions"][positions + config.position_offset].astype(jnp.float32)
    if config.num_token_types:
        types = jnp.where(is_token, tokens // config.vocab_size, 0)
        x = x + p["token_types"][types].astype(jnp.float32)
    x = layer_norm(x, p["embed_norm"], p["embed_norm_bias"], config.norm_eps, backend=backend)
    return x.astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _layer(
    config: EncoderConfig, backend: Backend, attend: Attend, p: Params, x: jax.Array
) -> jax.Array:
    eps = config.norm_eps
    x = checkpoint_name(x, LAYER_INPUT)
    q, k, v = (byte_linear(x, p[f"w{n}"], p[f"b{n}"], backend=backend) for n in "qkv")
    shape = (*x.shape[:-1], config.num_heads, config.head_dim)
    out, _ = attend(_SPEC, q.reshape(shape), k.reshape(shape), v.reshape(shape), None)
    out = out.reshape(x.shape)
    x = byte_linear(out, p["wo"], p["bo"], residual=x, backend=backend)
    x = layer_norm(x, p["attn_norm"], p["attn_norm_bias"], eps, backend=backend)
    gelu = _GELUS.get(config.activation)
    h = byte_linear(x, p["w_up"], p["b_up"], gelu=gelu, backend=backend)
    if gelu is None:
        h = ACTIVATIONS[config.activation](h, backend)
    x = byte_linear(h, p["w_down"], p["b_down"], residual=x, backend=backend)
    return layer_norm(x, p["mlp_norm"], p["mlp_norm_bias"], eps, backend=backend)


def _as_it_is(backend: Backend, params: Params, hidden: jax.Array) -> jax.Array:
    """The final norm: each layer ends with its own."""
    return hidden


def _no_logits(backend: Backend, params: Params, hidden: jax.Array) -> jax.Array:
    raise ValueError(
        "an encoder gives no logits of next tokens: use flaxen.encode for its hidden states"
    )


def _param_specs(config: EncoderConfig) -> dict[str, Any]:
    d, f = config.model_dim, config.mlp_dim
    layer = {
        **_dense("q", d, d, ("model", "heads"), head_dim=config.head_dim),
        **_dense("k", d, d, ("model", "heads"), head_dim=config.head_dim),
        **_dense("v", d, d, ("model", "heads"), head_dim=config.head_dim),
        **_dense("o", d, d, ("heads", "model"), "residual", head_dim=config.head_dim),
        **_norm("attn_norm", d),
        **_dense("_up", d, f, ("model", "mlp")),
        **_dense("_down", f, d, ("mlp", "model"), "residual"),
        **_norm("mlp_norm", d),
    }
    specs: dict[str, Any] = {
        "embed": ParamSpec(
            shape=(config.vocab_size, d),
            axes=("vocab", "model"),
            role="table",
            matrix=_TABLE,
            lookup_only=True,
        ),
        "positions": _table(config.max_position + config.position_offset, d),
        **_norm("embed_norm", d),
        "layers": tuple(dict(layer) for _ in range(config.num_layers)),
    }
    if config.num_token_types:
        specs["token_types"] = _table(config.num_token_types, d)
    if config.head is not None:
        specs |= head_specs(config.head, d)
    return specs


def _dense(
    name: str,
    inputs: int,
    outputs: int,
    axes: tuple[str, str],
    init: Init = "normal",
    *,
    head_dim: int = 1,
) -> dict[str, ParamSpec]:
    """The weight [inputs, outputs] and the bias of one layer."""
    weight = ParamSpec(
        shape=(inputs, outputs),
        axes=axes,
        role="matrix",
        matrix=Matrix(inputs=(0,), outputs=(1,)),
        init=init,
        head_dim=head_dim,
    )
    bias = ParamSpec(
        shape=(outputs,), axes=axes[1:], role="vector", init="zeros", head_dim=head_dim
    )
    return {f"w{name}": weight, f"b{name}": bias}


def _norm(name: str, size: int) -> dict[str, ParamSpec]:
    return {
        name: ParamSpec(shape=(size,), axes=("model",), role="vector", init="ones"),
        f"{name}_bias": ParamSpec(shape=(size,), axes=("model",), role="vector", init="zeros"),
    }


def _table(rows: int, size: int) -> ParamSpec:
    return ParamSpec(shape=(rows, size), axes=(None, "model"), role="table", lookup_only=True)
