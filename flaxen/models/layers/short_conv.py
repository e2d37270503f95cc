"""A gated short convolution, the mixer of LFM2 (https://arxiv.org/abs/2511.23404).

Dimension key: D model, C channels, K taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear
from flaxen.models.cache import CacheSpec, State
from flaxen.models.layers.part import Fused, LayerSpecs, Step, bias, vector, weight
from flaxen.models.model import Params
from flaxen.models.rope_config import RopeConfig
from flaxen.recurrences.short_convolution import short_convolution, state_shape


@dataclass(frozen=True, kw_only=True)
class ShortConv:
    """out = W_out (c * convolution(b * u)), with b, c, u = W_in x.

    Raises:
      ValueError: a size is too small.
    """

    num_channels: int  # C
    num_taps: int  # K, the tokens that an output sees
    has_bias: bool = False  # of both weights and of the convolution

    rotation: ClassVar[tuple[RopeConfig, int] | None] = None  # see Mixer.rotation

    def __post_init__(self) -> None:
        if self.num_channels < 1 or self.num_taps < 2:
            raise ValueError(
                "a short convolution needs at least 1 channel and 2 taps, got "
                f"{self.num_channels} and {self.num_taps}"
            )

    def cache_spec(self) -> CacheSpec:
        """See Mixer.cache_spec."""
        return State(shapes=(state_shape(self.num_taps, self.num_channels),))

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mixer.param_specs."""
        d, c = model_dim, self.num_channels
        specs = {
            "w_in": weight((d, 3 * c), ("model", None)),
            "conv_weight": vector((self.num_taps, c), (None, None), "taps"),
            "w_out": weight((c, d), (None, "model"), "residual"),
        }
        if self.has_bias:
            specs |= {"b_in": bias(specs["w_in"]), "b_out": bias(specs["w_out"])}
            specs["conv_bias"] = vector((c,), (None,), "zeros")
        return specs

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """See Mixer."""
        h = linear(x, p["w_in"], p.get("b_in"), norm=fused.norm, backend=backend)
        b, c, u = jnp.split(h, 3, axis=-1)
        inputs = (b * u, p["conv_weight"], p.get("conv_bias"))
        out, entry = step.attend.recur(short_convolution, inputs, 0, entry)
        return linear(
            c * out, p["w_out"], p.get("b_out"), residual=fused.residual, backend=backend
        ), entry
