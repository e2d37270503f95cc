"""A gated delta net: linear attention by the gated delta rule, behind a short convolution and with
a gate on its output (https://arxiv.org/abs/2412.06464).

Dimension key: D model, K key heads, N value heads, H key dim, P value dim.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear, linears
from flaxen.models.cache import CacheSpec, State
from flaxen.models.layers.part import Fused, LayerSpecs, Step, split_heads, vector, weight
from flaxen.models.model import Params
from flaxen.models.rope_config import RopeConfig
from flaxen.recurrences import gated_delta, short_convolution
from flaxen.recurrences.gated_norm import gated_norm


@dataclass(frozen=True, kw_only=True)
class GatedDelta:
    """The columns of w_in are those of each key head in turn: its query, its key, and the values
    and output gates of its N / K value heads. Those of w_ba are its heads' b, then their a.

    Raises:
      ValueError: a size is too small, or the value heads can't be divided among the key heads.
    """

    num_key_heads: int  # K
    num_value_heads: int  # N
    key_dim: int  # H
    value_dim: int  # P
    num_taps: int  # of the convolution
    norm_eps: float  # of the norm of the output

    rotation: ClassVar[tuple[RopeConfig, int] | None] = None  # see Mixer.rotation

    def __post_init__(self) -> None:
        sizes = (self.num_key_heads, self.num_value_heads, self.key_dim, self.value_dim)
        if min(sizes) < 1 or self.num_taps < 2:
            raise ValueError(
                f"a gated delta net needs sizes of at least 1 and 2 taps, got {sizes} and "
                f"{self.num_taps} taps"
            )
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(
                f"num_value_heads ({self.num_value_heads}) must be a multiple of num_key_heads "
                f"({self.num_key_heads})"
            )

    @property
    def _widths(self) -> tuple[int, int, int]:
        """The numbers of a token's queries, keys and values."""
        keys = self.num_key_heads * self.key_dim
        return keys, keys, self.num_value_heads * self.value_dim

    def cache_spec(self) -> CacheSpec:
        """See Mixer.cache_spec."""
        convolution = short_convolution.state_shape(self.num_taps, sum(self._widths))
        heads = self.num_value_heads, self.key_dim, self.value_dim
        return State(shapes=(convolution, gated_delta.state_shape(*heads)))

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mixer.param_specs."""
        d, n, (_, _, values) = model_dim, self.num_value_heads, self._widths
        return {
            "w_in": weight((d, sum(self._widths) + values), ("model", None)),
            "w_ba": weight((d, 2 * n), ("model", None)),
            "conv_weight": vector((self.num_taps, sum(self._widths)), (None, None), "taps"),
            "a_log": replace(vector((n,), (None,), "decay"), is_wide=True),
            "dt_bias": replace(vector((n,), (None,), "time_step"), is_wide=True),
            "gate_norm": vector((self.value_dim,), (None,), "ones"),
            "w_out": weight((values, d), (None, "model"), "residual"),
        }

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """See Mixer."""
        h, ba = linears(x, (p["w_in"], p["w_ba"]), (None, None), norm=fused.norm, backend=backend)
        qkv, gate = self._by_kind(h)
        op = functools.partial(short_convolution.short_convolution, has_silu=True)
        qkv, entry = step.attend.recur(op, (qkv, p["conv_weight"], None), 0, entry)
        q_width, k_width, _ = self._widths
        q, k, v = jnp.split(qkv, (q_width, q_width + k_width), axis=-1)
        q, k = (split_heads(each, self.num_key_heads) for each in (q, k))
        b, a = (
            each.reshape(*x.shape[:-1], -1)
            for each in jnp.split(split_heads(ba, self.num_key_heads), 2, axis=-1)
        )
        gates = gated_delta.Gates(a, b, p["a_log"], p["dt_bias"])
        inputs = (q, k, split_heads(v, self.num_value_heads), gates)
        out, entry = step.attend.recur(gated_delta.gated_delta, inputs, 1, entry)
        gate = split_heads(gate, self.num_value_heads)
        out = gated_norm(
            out, gate, p["gate_norm"], self.norm_eps, is_gate_first=False, backend=backend
        )
        out = out.reshape(*x.shape[:-1], -1)
        return linear(out, p["w_out"], residual=fused.residual, backend=backend), entry

    def _by_kind(self, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The queries, keys and values of all heads, one kind after the other; and the gates."""
        values = self.num_value_heads // self.num_key_heads * self.value_dim
        ends = (self.key_dim, 2 * self.key_dim, 2 * self.key_dim + values)
        q, k, v, gate = (
            each.reshape(*h.shape[:-1], -1)
            for each in jnp.split(split_heads(h, self.num_key_heads), ends, axis=-1)
        )
        return jnp.concatenate([q, k, v], axis=-1), gate
