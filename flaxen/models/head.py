"""A classification head: from the pooled vector of a prompt to the logits of its labels.

The head is small, so its weights are plain arrays on every backend, and it computes in float32.
Deliberately does not know how hidden states are computed or pooled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import ParamSpec

DenseActivation = Literal["tanh", "relu"]
_ACTIVATIONS: Mapping[DenseActivation, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
}


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The layers of a head."""

    num_labels: int
    dense: DenseActivation | None = None  # a layer [D, D] with this activation before the last one
    bias: bool = True  # of the last layer


def head_specs(config: HeadConfig, model_dim: int) -> dict[str, ParamSpec]:
    """The parameters of a head, beside the model's own."""
    specs = {"head": _spec((model_dim, config.num_labels))}
    if config.bias:
        specs["head_bias"] = _spec((config.num_labels,))
    if config.dense is not None:
        specs["head_dense"] = _spec((model_dim, model_dim))
        specs["head_dense_bias"] = _spec((model_dim,))
    return specs


def apply_head(
    config: HeadConfig, backend: Backend, params: Params, pooled: jax.Array
) -> jax.Array:
    """The logits [L] of a pooled vector [D], in float32. It is the same function on every backend:
    a vector is alone in its call, so that its bits are its own.
    """
    x = pooled.astype(jnp.float32)
    if config.dense is not None:
        x = _product(x, params["head_dense"], params["head_dense_bias"])
        x = _ACTIVATIONS[config.dense](x)
    return _product(x, params["head"], params.get("head_bias"))


def with_head(model: Model, config: HeadConfig, model_dim: int) -> Model:
    """A decoder with a head in place of its unembedding."""
    other = model.for_context_on
    specs = {name: spec for name, spec in model.param_specs.items() if name != "unembed"}
    return replace(
        model,
        param_specs={**specs, **head_specs(config, model_dim)},
        head_on=functools.partial(apply_head, config),
        generates=False,
        for_context_on=None
        if other is None
        else lambda length: with_head(other(length), config, model_dim),
    )


def _product(x: jax.Array, weight: jax.Array, bias: Any) -> jax.Array:
    out = jnp.dot(x, weight.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return out if bias is None else out + bias.astype(jnp.float32)


def _spec(shape: tuple[int, ...]) -> ParamSpec:
    axes = (None,) * len(shape)
    if len(shape) == 1:
        return ParamSpec(shape=shape, axes=axes, role="vector", init="zeros")
    return ParamSpec(shape=shape, axes=axes, role="matrix")
