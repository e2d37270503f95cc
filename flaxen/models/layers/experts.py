"""A mixture of experts in place of an MLP: a router, the experts, and experts that all tokens use.

Deliberately does not know who reads the routing: a loss in training, the server's metrics.
Dimension key: D model, F mlp of an expert, E experts, k experts of a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from flaxen.expert_kernels.experts import ExpertsSpec, experts
from flaxen.expert_kernels.routing import RoutingSpec, route
from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import linear
from flaxen.kernels.rms_norm import rms_norm
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.layers.part import Fused, LayerSpecs, Routing, vector, weight
from flaxen.models.model import Params
from flaxen.models.param_spec import Init, ParamSpec, check_sizes

_SHARED = "shared_"  # begins the names of the shared experts' parameters, after w_ or b_


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The weighted sum of a token's k best of E gated MLPs, https://arxiv.org/abs/2401.04088.

    The router and what it decides are float32. Among equal scores the first expert's is the
    better one. No token is dropped.

    Raises:
      ValueError: a size is not above 0, or the routing does not fit the number of experts.
    """

    num_experts: int  # E
    mlp_dim: int  # F
    routing: RoutingSpec
    spec: ExpertsSpec = ExpertsSpec()  # noqa: RUF009 (a frozen value)
    has_biases: bool = False  # of the experts
    router_bias: bool = False
    selection_bias: bool = False  # added to the scores for the choice of experts alone
    shared: DenseMlp | None = None  # an MLP that all tokens go through too
    shared_gate: bool = False  # its output is multiplied with the sigmoid of a gate

    def __post_init__(self) -> None:
        check_sizes(self, "num_experts", "mlp_dim")
        if self.shared_gate and self.shared is None:
            raise ValueError("a gate of shared experts needs shared experts: set `shared` too")
        self.routing.check(self.num_experts)

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mlp.param_specs."""
        D, F, E = model_dim, self.mlp_dim, self.num_experts
        router = replace(weight((D, E), ("model", None)), is_wide=True)
        wide = replace(vector((E,), (None,), "zeros"), is_wide=True)
        specs = {
            "w_router": router,
            "w_experts_gate": self._stack((E, D, F), ("model", "mlp")),
            "w_experts_up": self._stack((E, D, F), ("model", "mlp")),
            "w_experts_down": self._stack((E, F, D), ("mlp", "model"), "residual"),
        }
        if self.router_bias:
            specs["b_router"] = wide
        if self.selection_bias:
            specs["b_router_selection"] = wide
        if self.has_biases:
            for name in ("gate", "up", "down"):
                stack = specs["w_experts_" + name]
                shape, axes = (E, stack.shape[2]), ("experts", stack.axes[2])
                specs["b_experts_" + name] = vector(shape, axes, "zeros")
        if self.shared is not None:
            own = self.shared.param_specs(model_dim)
            specs |= {_shared(name): spec for name, spec in own.items()}
        if self.shared_gate:
            specs["w_shared_router"] = replace(router, shape=(D, 1))
        return specs

    def _stack(
        self, shape: tuple[int, int, int], axes: tuple[str, str], init: Init = "normal"
    ) -> ParamSpec:
        return ParamSpec(
            shape=shape,
            axes=("experts", *axes),
            role="experts",
            init=init,
            is_stack=True,
            share=self.routing.k / self.num_experts,
        )

    def __call__(
        self, p: Params, x: jax.Array, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Routing | None]:
        """See Mlp."""
        h = x if fused.norm is None else rms_norm(x, *fused.norm, backend=backend)
        logits = linear(h, p["w_router"], out_dtype=jnp.float32, backend=backend)
        if self.router_bias:
            logits = logits + jnp.broadcast_to(p["b_router"], logits.shape)
        bias = p.get("b_router_selection")
        ids, weights = route(logits, bias, self.routing, backend=backend)
        out = experts(
            h,
            ids,
            weights,
            (p["w_experts_gate"], p["w_experts_up"], p["w_experts_down"]),
            (p.get("b_experts_gate"), p.get("b_experts_up"), p.get("b_experts_down")),
            spec=self.spec,
            residual=self._with_shared(p, h, fused.residual, backend),
            out_dtype=x.dtype,
            backend=backend,
        )
        return out, Routing(logits=logits, ids=ids)

    def _with_shared(
        self, p: Params, h: jax.Array, residual: jax.Array | None, backend: Backend
    ) -> jax.Array | None:
        """The output of the shared experts plus the residual."""
        if self.shared is None:
            return residual
        own = {name: p[_shared(name)] for name in self.shared.param_specs(h.shape[-1])}
        inside = None if self.shared_gate else residual
        out, _ = self.shared(own, h, Fused(None, inside), backend)
        if not self.shared_gate:
            return out
        gate = linear(h, p["w_shared_router"], out_dtype=jnp.float32, backend=backend)
        wide = out.astype(jnp.float32) * activation(gate, "sigmoid", backend=backend)
        return wide if residual is None else wide + residual.astype(jnp.float32)


def _shared(name: str) -> str:
    """The name of a shared expert's parameter, given that of a DenseMlp: w_shared_up for w_up."""
    return name[:2] + _SHARED + name[2:]
