"""Attention over keys and values of several heads, with each family's variations as fields.

Deliberately does not know how attention is computed or cached.
Dimension key: D model, N query heads, K kv heads, H head dim.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear, linears
from flaxen.kernels.rope import apply_rope
from flaxen.models.cache import CacheSpec, attention_cache
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.part import Fused, LayerSpecs, Step, bias, split_heads, vector, weight
from flaxen.models.model import AttentionSpec, Params
from flaxen.models.param_spec import check_sizes
from flaxen.models.rope_config import RopeConfig

_MOST_STEPS = 4096  # of a Temperature: 33 million tokens of Llama 4


@dataclass(frozen=True, kw_only=True)
class QkNorm:
    """A norm of the queries and one of the keys."""

    norm: Norm
    over: Literal["head", "whole"] = "head"  # each head alone, or all heads of a token as one
    after_rope: bool = False


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A factor on queries that grows with their position p, so that attention stays sharp over
    long contexts: 1 + scale * log(1 + floor((p + offset) / interval)).
    """

    interval: int  # tokens
    scale: float
    offset: int = 0

    def factor(self, positions: jax.Array) -> jax.Array:
        """The factor of each query, float32 in the positions' shape."""
        steps = jnp.clip((positions + self.offset) // self.interval, 0, _MOST_STEPS - 1)
        # A table, because XLA's logarithm depends on where a token stands in the batch.
        factors = 1 + self.scale * np.log1p(np.arange(_MOST_STEPS, dtype=np.float32))
        return jnp.asarray(factors, jnp.float32)[steps]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention, https://arxiv.org/abs/1706.03762, with grouped heads and rope.

    Raises:
      ValueError: a size is not above 0, or num_heads is not a multiple of num_kv_heads.
    """

    num_heads: int  # N
    num_kv_heads: int  # K
    head_dim: int  # H
    rope: RopeConfig | None = None  # None: without positions
    window: int | None = None  # tokens that a token sees, itself included; None sees all
    chunk: int | None = None  # a token sees those of its own chunk of so many positions
    biases: tuple[str, ...] = ()  # the weights with a bias, some of wq, wk, wv, wo
    qk_norm: QkNorm | None = None
    scale: float | None = None  # multiplies the scores; None is head_dim ** -0.5
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap)
    temperature: Temperature | None = None
    has_sinks: bool = False  # each head has a score that takes part in the softmax without a value
    is_gated: bool = False  # the output of each head is multiplied with the sigmoid of a gate

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "num_kv_heads", "head_dim")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.window is not None and self.window <= 0:
            raise ValueError(f"a sliding window must be above 0 tokens, got {self.window}")
        if self.chunk is not None and self.chunk <= 0:
            raise ValueError(f"a chunk of attention must be above 0 tokens, got {self.chunk}")
        if self.rope is not None:
            self.rope.num_rotated(self.head_dim)

    @property
    def rotation(self) -> tuple[RopeConfig, int] | None:
        """See Mixer.rotation."""
        return None if self.rope is None else (self.rope, self.head_dim)

    def cache_spec(self) -> CacheSpec:
        """See Mixer.cache_spec."""
        return attention_cache(self.num_kv_heads, self.head_dim, self.window, chunk=self.chunk)

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mixer.param_specs."""
        d, h = model_dim, self.head_dim
        q_dim, kv_dim = self.num_heads * h, self.num_kv_heads * h
        specs = {  # [in, out]
            "wq": weight((d, q_dim), ("model", "heads"), head_dim=h),
            "wk": weight((d, kv_dim), ("model", "kv_heads"), head_dim=h),
            "wv": weight((d, kv_dim), ("model", "kv_heads"), head_dim=h),
            "wo": weight((q_dim, d), ("heads", "model"), "residual", head_dim=h),
        }
        if self.is_gated:
            specs["w_attn_gate"] = specs["wq"]
        specs |= {"b" + name[1:]: bias(specs[name]) for name in self.biases}
        if self.has_sinks:
            specs["sinks"] = vector((self.num_heads,), ("heads",), "zeros")
        if self.qk_norm is not None:
            norm, is_whole = self.qk_norm.norm, self.qk_norm.over == "whole"
            for name, axis, size in (("q_norm", "heads", q_dim), ("k_norm", "kv_heads", kv_dim)):
                own = (
                    norm.param_specs(name, size, axis)
                    if is_whole
                    else norm.param_specs(name, h, "head_dim")
                )
                specs |= {each: replace(spec, head_dim=h) for each, spec in own.items()}
        return specs

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """See Mixer."""
        names = ("wq", "wk", "wv", "w_attn_gate") if self.is_gated else ("wq", "wk", "wv")
        weights, biases = (
            tuple(p[name] for name in names),
            tuple(p.get("b" + name[1:]) for name in names),
        )
        q, k, v, *gate = linears(x, weights, biases, norm=fused.norm, backend=backend)
        spec = AttentionSpec(
            window=self.window, scale=self.scale, softcap=self.softcap, chunk=self.chunk
        )
        sinks = p["sinks"].astype(jnp.float32) if self.has_sinks else None
        q, k = self._placed(p, q, k, step, backend)
        out, entry = step.attend(spec, q, k, split_heads(v, self.num_kv_heads), entry, sinks)
        out = out.reshape(*x.shape[:-1], -1)
        if gate:
            opened = activation(gate[0].astype(jnp.float32), "sigmoid", backend=backend)
            out = out * opened.astype(out.dtype)
        return linear(out, p["wo"], p.get("bo"), residual=fused.residual, backend=backend), entry

    def _placed(
        self, p: Params, q: jax.Array, k: jax.Array, step: Step, backend: Backend
    ) -> tuple[jax.Array, jax.Array]:
        """Queries [..., N, H] and keys [..., K, H], normed and at their positions."""
        normed = self.qk_norm
        if normed is not None and normed.over == "whole":
            q = normed.norm(p, "q_norm", q, backend=backend)
            k = normed.norm(p, "k_norm", k, backend=backend)
        q, k = split_heads(q, self.num_heads), split_heads(k, self.num_kv_heads)
        by_head = normed if normed is not None and normed.over == "head" else None
        if by_head is not None and not by_head.after_rope:
            q, k = _normed(by_head.norm, p, q, k, backend)
        if self.rope is not None:
            assert step.rope is not None
            interleaved = self.rope.interleaved
            q, k = (
                apply_rope(each, *step.rope, interleaved=interleaved, backend=backend)
                for each in (q, k)
            )
        if by_head is not None and by_head.after_rope:
            q, k = _normed(by_head.norm, p, q, k, backend)
        if self.temperature is not None:
            factor = self.temperature.factor(step.positions)[..., None, None]
            q = (q.astype(jnp.float32) * factor).astype(q.dtype)
        return q, k


def _normed(
    norm: Norm, p: Params, q: jax.Array, k: jax.Array, backend: Backend
) -> tuple[jax.Array, jax.Array]:
    return norm(p, "q_norm", q, backend=backend), norm(p, "k_norm", k, backend=backend)
