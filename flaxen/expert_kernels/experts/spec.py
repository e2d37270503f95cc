"""What an expert computes between its products. Deliberately does not know who computes it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

ACTIVATIONS = ("silu", "gelu_tanh")  # as numbered in C++


@dataclass(frozen=True, kw_only=True)
class Gate:
    """activation(gate) * up, https://arxiv.org/abs/2002.05202, with GPT-OSS's variations:

      gate' = min(gate, limit), up' = clip(up, -limit, limit),
      gate' * sigmoid(alpha * gate') * (up' + offset)

    Raises:
      ValueError: the activation is not known, a number is not above 0, or alpha and offset are set
        for another activation than silu.
    """

    activation: str = "silu"  # one of ACTIVATIONS
    alpha: float = 1.0  # silu alone
    limit: float | None = None
    offset: float = 0.0  # silu alone

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"the activation {self.activation!r} is not supported in experts: use one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        if self.alpha <= 0 or (self.limit is not None and self.limit <= 0):
            raise ValueError(
                f"alpha and limit must be above 0, got {self.alpha} and {self.limit}: leave the "
                "limit None for none"
            )
        if self.activation != "silu" and (self.alpha != 1 or self.offset != 0):
            raise ValueError(f"alpha and offset belong to silu, not to {self.activation}")

    def __call__(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        """The hidden values, of float32 gate and up in one shape."""
        if self.limit is not None:
            gate = jnp.minimum(gate, self.limit)
            up = jnp.clip(up, -self.limit, self.limit)
        if self.activation == "gelu_tanh":
            return jax.nn.gelu(gate, approximate=True) * up
        return gate * jax.nn.sigmoid(self.alpha * gate) * (up + self.offset)


@dataclass(frozen=True, kw_only=True)
class ExpertsSpec:
    """How a mixture of experts computes. Hashable: it selects compiled code."""

    gate: Gate = Gate()
    # The routing weights multiply the inputs of experts (Llama 4), not their outputs.
    scales_inputs: bool = False
