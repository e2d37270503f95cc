"""Mamba-2: a selective state space behind a short convolution, with a gate on its output
(https://arxiv.org/abs/2405.21060).

Dimension key: D model, N heads, P head dim, G groups, H state dim.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear
from flaxen.models.cache import CacheSpec, State
from flaxen.models.layers.part import Fused, LayerSpecs, Step, bias, split_heads, vector, weight
from flaxen.models.model import Params
from flaxen.models.rope_config import RopeConfig
from flaxen.recurrences import short_convolution, state_space
from flaxen.recurrences.gated_norm import gated_norm


@dataclass(frozen=True, kw_only=True)
class Mamba2:
    """The columns of w_in are the output's gate, the heads' inputs x, the groups' b and c, and the
    heads' time steps.

    Raises:
      ValueError: a size is too small, or the heads can't be divided among the groups.
    """

    num_heads: int  # N
    head_dim: int  # P
    num_groups: int  # G, each with a b and a c for N / G heads
    state_dim: int  # H
    num_taps: int  # of the convolution
    norm_eps: float  # of the norm of the output, in which each group is normed apart
    dt_limit: tuple[float, float] = (0.0, math.inf)  # of time steps
    has_conv_bias: bool = True
    has_bias: bool = False  # of both weights

    rotation: ClassVar[tuple[RopeConfig, int] | None] = None  # see Mixer.rotation

    def __post_init__(self) -> None:
        sizes = (self.num_heads, self.head_dim, self.num_groups, self.state_dim)
        if min(sizes) < 1 or self.num_taps < 2:
            raise ValueError(
                f"Mamba-2 needs sizes of at least 1 and 2 taps, got {sizes} and {self.num_taps} "
                "taps"
            )
        if self.num_heads % self.num_groups:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_groups ({self.num_groups})"
            )

    @property
    def _width(self) -> int:
        """The numbers of a token's heads."""
        return self.num_heads * self.head_dim

    @property
    def _group_width(self) -> int:
        """The numbers of a token's b, and of its c."""
        return self.num_groups * self.state_dim

    def cache_spec(self) -> CacheSpec:
        """See Mixer.cache_spec."""
        channels = self._width + 2 * self._group_width
        convolution = short_convolution.state_shape(self.num_taps, channels)
        heads = state_space.state_shape(self.num_heads, self.state_dim, self.head_dim)
        return State(shapes=(convolution, heads))

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mixer.param_specs."""
        d, n, width = model_dim, self.num_heads, self._width
        channels = width + 2 * self._group_width
        specs = {
            "w_in": weight((d, width + channels + n), ("model", None)),
            "conv_weight": vector((self.num_taps, channels), (None, None), "taps"),
            "a_log": replace(vector((n,), (None,), "decay"), is_wide=True),
            "dt_bias": replace(vector((n,), (None,), "time_step"), is_wide=True),
            "skip": replace(vector((n,), (None,), "ones"), is_wide=True),
            "gate_norm": vector((width,), (None,), "ones"),
            "w_out": weight((width, d), (None, "model"), "residual"),
        }
        if self.has_conv_bias:
            specs["conv_bias"] = vector((channels,), (None,), "zeros")
        if self.has_bias:
            specs |= {"b_in": bias(specs["w_in"]), "b_out": bias(specs["w_out"])}
        return specs

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """See Mixer."""
        h = linear(x, p["w_in"], p.get("b_in"), norm=fused.norm, backend=backend)
        width, groups = self._width, self._group_width
        gate, xbc, dt = jnp.split(h, (width, 2 * width + 2 * groups), axis=-1)
        op = functools.partial(short_convolution.short_convolution, has_silu=True)
        inputs = (xbc, p["conv_weight"], p.get("conv_bias"))
        xbc, entry = step.attend.recur(op, inputs, 0, entry)
        u, b, c = jnp.split(xbc, (width, width + groups), axis=-1)
        dynamics = state_space.Dynamics(dt, p["a_log"], p["dt_bias"], p["skip"])
        space = functools.partial(state_space.state_space, dt_limit=self.dt_limit)
        by_group = (split_heads(each, self.num_groups) for each in (b, c))
        out, entry = step.attend.recur(
            space, (split_heads(u, self.num_heads), *by_group, dynamics), 1, entry
        )
        out = gated_norm(
            out.reshape(gate.shape),
            gate,
            p["gate_norm"],
            self.norm_eps,
            group=width // self.num_groups,
            is_gate_first=True,
            backend=backend,
        )
        return linear(
            out, p["w_out"], p.get("b_out"), residual=fused.residual, backend=backend
        ), entry
