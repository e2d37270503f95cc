"""Norms over the last axis: RMS norm, https://arxiv.org/abs/1910.07467, and layer norm,
https://arxiv.org/abs/1607.06450.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.layer_norm import layer_norm
from flaxen.kernels.rms_norm import rms_norm
from flaxen.models.layers.part import FusedNorm, LayerSpecs, vector
from flaxen.models.model import Params


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A norm with a weight for each number.

    Raises:
      ValueError: a bias or `one_plus` is asked of the kind that does not have it.
    """

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-5
    one_plus: bool = False  # rms: the stored weight is the distance from 1
    bias: bool = False  # layer
    has_weight: bool = True  # rms

    def __post_init__(self) -> None:
        if self.bias and self.kind == "rms":
            raise ValueError("an RMS norm has no bias: use the kind layer")
        if self.one_plus and self.kind == "layer":
            raise ValueError("the weight of a layer norm is not stored as a distance from 1")

    def param_specs(self, name: str, size: int, axis: str | None = "model") -> LayerSpecs:
        """The norm's parameters: the weight `name`, and its bias.

        Args:
          name: of the weight.
          size: of the axis that is normed.
          axis: the logical name of that axis.
        """
        if not self.has_weight:
            return {}
        specs = {name: vector((size,), (axis,), "zeros" if self.one_plus else "ones")}
        if self.bias:
            specs[_bias_name(name)] = vector((size,), (axis,), "zeros")
        return specs

    def fused(self, p: Params, name: str) -> FusedNorm | None:
        """Weight and epsilon, if linear layers can compute the norm on the way; None if not."""
        is_plain = self.kind == "rms" and self.has_weight and not self.one_plus
        return (p[name], self.eps) if is_plain else None

    def __call__(self, p: Params, name: str, x: jax.Array, *, backend: Backend) -> jax.Array:
        """Norms x over its last axis, [..., size].

        Args:
          p: the parameters that have the norm's.
          name: of the weight.
          x: [..., size].
          backend: what computes.
        """
        if self.kind == "layer":
            bias = p.get(_bias_name(name))
            out: jax.Array = layer_norm(x, p[name], bias, self.eps, backend=backend)
            return out
        if not self.has_weight:
            return rms_norm(x, jnp.ones(x.shape[-1], x.dtype), self.eps, backend=backend)
        if not self.one_plus:
            return rms_norm(x, p[name], self.eps, backend=backend)
        # 1 + weight in x's dtype would be further off than the norm itself; so all is in float32.
        wide, weight = x.astype(jnp.float32), 1 + p[name].astype(jnp.float32)
        normed: jax.Array = rms_norm(wide, weight, self.eps, backend=backend)
        return normed.astype(x.dtype)


def _bias_name(name: str) -> str:
    return name + "_bias"
