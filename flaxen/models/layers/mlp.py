"""A multi-layer perceptron with one hidden layer, gated or not.

Dimension key: D model, F mlp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from flaxen.kernels.activation import activation
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import gated_linear, linear, linears
from flaxen.models.layers.part import Fused, LayerSpecs, Routing, bias, weight
from flaxen.models.model import Params
from flaxen.models.param_spec import check_sizes

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]

ACTIVATIONS: Mapping[str, Callable[[jax.Array, Backend], jax.Array]] = {  # of float32 [..., F]
    "silu": lambda x, backend: activation(x, "silu", backend=backend),
    "gelu": lambda x, backend: activation(x, "gelu", backend=backend),
    "gelu_tanh": lambda x, backend: activation(x, "gelu_tanh", backend=backend),
    "relu": lambda x, backend: jax.nn.relu(x),
    "relu2": lambda x, backend: jnp.square(jax.nn.relu(x)),
}


@dataclass(frozen=True, kw_only=True)
class DenseMlp:
    """activation(x @ gate) * (x @ up) @ down, or activation(x @ up) @ down without a gate.

    https://arxiv.org/abs/2002.05202

    Raises:
      ValueError: the size is not above 0, or there is no such activation.
    """

    mlp_dim: int  # F
    activation: Activation = "silu"
    is_gated: bool = True
    biases: tuple[str, ...] = ()  # the weights with a bias, some of w_gate, w_up, w_down

    def __post_init__(self) -> None:
        check_sizes(self, "mlp_dim")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"the activation {self.activation!r} is not supported: use one of "
                f"{', '.join(ACTIVATIONS)}"
            )

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """See Mlp.param_specs."""
        specs = {  # [in, out]
            "w_up": weight((model_dim, self.mlp_dim), ("model", "mlp")),
            "w_down": weight((self.mlp_dim, model_dim), ("mlp", "model"), "residual"),
        }
        if self.is_gated:
            specs = {"w_gate": specs["w_up"], **specs}
        return specs | {"b" + name[1:]: bias(specs[name]) for name in self.biases}

    def __call__(
        self, p: Params, x: jax.Array, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Routing | None]:
        """See Mlp."""
        if self.is_gated and self.activation == "silu":
            biases = p.get("b_gate"), p.get("b_up")
            h = gated_linear(x, p["w_gate"], p["w_up"], biases, norm=fused.norm, backend=backend)
        else:
            names = ("gate", "up") if self.is_gated else ("up",)
            weights = tuple(p["w_" + name] for name in names)
            biases = tuple(p.get("b_" + name) for name in names)
            first, *rest = linears(x, weights, biases, norm=fused.norm, backend=backend)
            wide = ACTIVATIONS[self.activation](first.astype(jnp.float32), backend)
            for up in rest:
                wide = wide * up.astype(jnp.float32)
            h = wide.astype(x.dtype)
        out = linear(h, p["w_down"], p.get("b_down"), residual=fused.residual, backend=backend)
        return out, None
