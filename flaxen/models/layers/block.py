"""One layer: a mixer and an MLP, each with its norms, added to the residual stream.

Deliberately does not know what mixers and MLPs compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax

from flaxen.kernels.backend import Backend
from flaxen.models.layers.norm import Norm
from flaxen.models.layers.part import Fused, LayerSpecs, Mixer, Mlp, Routing, Step
from flaxen.models.model import Params

# Where a layer has its norms, and what its MLP sees:
# - pre: a norm before each part, https://arxiv.org/abs/2002.04745;
# - post: a norm after each part, before it is added, https://arxiv.org/abs/2501.00656;
# - sandwich: both;
# - parallel: the MLP sees the layer's input, as the mixer does, through the same norm;
# - parallel_two_norms: the same, through a norm of its own.
Order = Literal["pre", "post", "sandwich", "parallel", "parallel_two_norms"]

_NORMS: dict[Order, tuple[str, ...]] = {
    "pre": ("attn_norm", "mlp_norm"),
    "post": ("attn_post_norm", "mlp_post_norm"),
    "sandwich": ("attn_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm"),
    "parallel": ("attn_norm",),
    "parallel_two_norms": ("attn_norm", "mlp_norm"),
}


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """A layer of a decoder. Hashable: equal layers share their compiled code.

    Raises:
      ValueError: there is no such order, or a parallel layer has no MLP.
    """

    mixer: Mixer
    mlp: Mlp | None  # None: the layer is its mixer alone
    norm: Norm  # of all the layer's norms
    order: Order = "pre"
    residual_scale: float = 1.0  # multiplies what is added to the residual stream

    def __post_init__(self) -> None:
        if self.order not in _NORMS:
            raise ValueError(
                f"the order {self.order!r} is not known: use one of {', '.join(_NORMS)}"
            )
        if self.mlp is None and self._is_parallel:
            raise ValueError("a parallel layer needs an MLP beside its mixer: use the order pre")

    @property
    def _is_parallel(self) -> bool:
        return self.order.startswith("parallel")

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """The layer's parameters, given D."""
        specs: LayerSpecs = {}
        for name in _NORMS[self.order]:
            if self.mlp is not None or name.startswith("attn"):
                specs |= self.norm.param_specs(name, model_dim)
        specs |= self.mixer.param_specs(model_dim)
        return specs if self.mlp is None else specs | self.mlp.param_specs(model_dim)

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, backend: Backend
    ) -> tuple[jax.Array, Any, Routing | None]:
        """The layer's output [..., D] and its new entry of the cache, given its input [..., D]; and
        the routing of its experts, if it has any.
        """
        if self._is_parallel:
            return self._parallel(p, x, step, entry, backend)
        h, norm = self._before(p, "attn_norm", x, backend)
        # Linear layers add the residual on the way, unless something is done to their output first.
        is_plain = self.residual_scale == 1 and self.order == "pre"
        fused = Fused(norm, x if is_plain else None)
        out, entry = self.mixer(p, h, step, entry, fused, backend)
        x = out if is_plain else self._added(p, "attn_post_norm", x, out, backend)
        if self.mlp is None:
            return x, entry, None
        h, norm = self._before(p, "mlp_norm", x, backend)
        out, routing = self.mlp(p, h, Fused(norm, x if is_plain else None), backend)
        x = out if is_plain else self._added(p, "mlp_post_norm", x, out, backend)
        return x, entry, routing

    def _parallel(
        self, p: Params, x: jax.Array, step: Step, entry: Any, backend: Backend
    ) -> tuple[jax.Array, Any, Routing | None]:
        assert self.mlp is not None
        is_plain = self.residual_scale == 1
        h, norm = self._before(p, "attn_norm", x, backend)
        fused = Fused(norm, x if is_plain else None)
        out, entry = self.mixer(p, h, step, entry, fused, backend)
        if self.order == "parallel_two_norms":
            h, norm = self._before(p, "mlp_norm", x, backend)
        out, routing = self.mlp(p, h, Fused(norm, out), backend)
        return (out if is_plain else x + out * self.residual_scale), entry, routing

    def _before(
        self, p: Params, name: str, x: jax.Array, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """x as a part takes it, and the norm that the part still has to compute."""
        if self.order == "post":
            return x, None
        fused = self.norm.fused(p, name)
        return (x, fused) if fused is not None else (self.norm(p, name, x, backend=backend), None)

    def _added(
        self, p: Params, name: str, x: jax.Array, out: jax.Array, backend: Backend
    ) -> jax.Array:
        if self.order in ("post", "sandwich"):
            out = self.norm(p, name, out, backend=backend)
        return x + (out if self.residual_scale == 1 else out * self.residual_scale)
