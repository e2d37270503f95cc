"""Multi-head latent attention (MLA), https://arxiv.org/abs/2405.04434.

A token keeps one latent, from which the keys and values of all heads follow by a product. The
product is done with queries and results instead (the absorbed form): scores and sums are over the
latents themselves, in training, prefill and decode alike, so that all have the same bits
(decision 0306).
Deliberately does not know how attention is computed or cached.
Dimension key: D model, N query heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.kernels.backend import Backend
from flaxen.kernels.head_linear import head_linear
from flaxen.kernels.linear import linear, linears
from flaxen.kernels.rope import apply_rope
from flaxen.models.cache import CacheSpec, Latent
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.part import Fused, LayerSpecs, Step, bias, weight
from flaxen.models.model import AttentionSpec, Params
from flaxen.models.param_spec import ParamSpec, check_sizes
from flaxen.models.rope_config import RopeConfig


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Attention over latents that all heads share.

    A head's key is `nope_dim` numbers made of the latent and `rope_dim` rotated numbers that are
    the same for all heads; its value is `value_dim` numbers made of the latent.

    Raises:
      ValueError: a size is not above 0, or the rotated part is odd.
    """

    num_heads: int  # N
    q_rank: int | None  # the rank of the compressed queries; None: they are not compressed
    kv_rank: int  # the numbers of a latent
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: RopeConfig
    latent_norm: Norm = field(default_factory=Norm)  # of compressed queries and latents
    scale: float | None = None  # multiplies the scores; None is (nope_dim + rope_dim) ** -0.5
    has_biases: bool = False  # of the compressing weights and the output's

    def __post_init__(self) -> None:
        check_sizes(self, "num_heads", "kv_rank", "nope_dim", "rope_dim", "value_dim")
        if self.q_rank is not None and self.q_rank <= 0:
            raise ValueError(f"q_rank must be above 0, or None, got {self.q_rank}")
        self.rope.num_rotated(self.rope_dim)

    @property
    def rotation(self) -> tuple[RopeConfig, int] | None:
        """See Mixer.rotation."""
        return self.rope, self.rope_dim

    @property
    def head_dim(self) -> int:
        """The numbers of a head's query."""
        return self.nope_dim + self.rope_dim

    def cache_spec(self) -> CacheSpec:
        """See Mixer.cache_spec."""
        return Latent(rank=self.kv_rank, rope_dim=self.rope_dim)

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mixer.param_specs."""
        N, size = self.num_heads, self.num_heads * self.head_dim
        queries = weight(
            (self.q_rank or model_dim, size), ("model", "heads"), head_dim=self.head_dim
        )
        specs: LayerSpecs = {}
        if self.q_rank is None:
            specs["wq"] = queries
        else:
            specs["wq_a"] = _compressing(model_dim, self.q_rank)
            specs |= self.latent_norm.param_specs("q_a_norm", self.q_rank, None)
            specs["wq_b"] = queries
        specs["wkv_a"] = _compressing(model_dim, self.kv_rank + self.rope_dim)
        specs |= self.latent_norm.param_specs("kv_a_norm", self.kv_rank, None)
        specs["w_uk"] = _by_head((N, self.nope_dim, self.kv_rank))
        specs["w_uv"] = _by_head((N, self.kv_rank, self.value_dim))
        specs["wo"] = weight(
            (N * self.value_dim, model_dim), ("heads", "model"), "residual", head_dim=self.value_dim
        )
        if self.has_biases:
            names = [name for name in ("wq_a", "wkv_a", "wo") if name in specs]
            specs |= {"b" + name[1:]: bias(specs[name]) for name in names}
        return specs

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """See Mixer."""
        first = "wq" if self.q_rank is None else "wq_a"
        biases = p.get("b" + first[1:]), p.get("bkv_a")
        q, kv = linears(x, (p[first], p["wkv_a"]), biases, norm=fused.norm, backend=backend)
        if self.q_rank is not None:
            q = self._normed(p, "q_a_norm", q, backend)
            q = linear(q, p["wq_b"], backend=backend)
        latents = self._normed(p, "kv_a_norm", kv[..., : self.kv_rank], backend)
        q = q.reshape(*q.shape[:-1], self.num_heads, self.head_dim)
        assert step.rope is not None
        rotated, key = (
            apply_rope(each, *step.rope, interleaved=self.rope.interleaved, backend=backend)
            for each in (q[..., self.nope_dim :], kv[..., None, self.kv_rank :])
        )
        absorbed = head_linear(q[..., : self.nope_dim], p["w_uk"], backend=backend)
        out, entry = step.attend(
            AttentionSpec(scale=self._scale, value_dim=self.kv_rank),
            jnp.concatenate([absorbed, rotated], axis=-1),
            jnp.concatenate([latents[..., None, :], key], axis=-1),
            None,
            entry,
        )
        out = head_linear(out, p["w_uv"], backend=backend).reshape(*x.shape[:-1], -1)
        return linear(out, p["wo"], p.get("bo"), residual=fused.residual, backend=backend), entry

    @property
    def _scale(self) -> float:
        return self.head_dim**-0.5 if self.scale is None else self.scale

    def _normed(self, p: Params, name: str, x: jax.Array, backend: Backend) -> jax.Array:
        return self.latent_norm(p, name, x, backend=backend)


def _compressing(model_dim: int, rank: int) -> ParamSpec:
    """A weight whose outputs every device has, because all heads read them."""
    return weight((model_dim, rank), ("model", None))


def _by_head(shape: tuple[int, int, int]) -> ParamSpec:
    """A weight of each head. No packed form has it: it is small beside the layer's others."""
    return ParamSpec(shape=shape, axes=("heads", None, None), role="matrix")
