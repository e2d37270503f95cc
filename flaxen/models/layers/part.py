"""What every part of a layer is: a hashable value with parameters and a forward.

A part selects compiled code, so that equal layers are traced once. Deliberately does not know any
part, nor the order in which a block uses them.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

from flaxen.kernels.backend import Backend
from flaxen.models.cache import CacheSpec
from flaxen.models.model import Attend, Params
from flaxen.models.param_spec import Init, Matrix, ParamSpec
from flaxen.models.rope_config import RopeConfig

LayerSpecs = dict[str, ParamSpec]  # the parameters of one layer, or of a part of it, by name
FusedNorm = tuple[jax.Array, float]  # the weight [D] and epsilon of an RMS norm

_WEIGHT = Matrix(inputs=(0,), outputs=(1,))


class Step(NamedTuple):
    """What a layer knows of the tokens, beside their hidden states."""

    positions: jax.Array  # int32 [...]: each token's position in its sequence
    rope: tuple[jax.Array, jax.Array] | None  # the layer's cosines and sines, float32 [..., 1, R/2]
    attend: Attend


class Fused(NamedTuple):
    """What a part computes along with its own products."""

    norm: FusedNorm | None  # an RMS norm that its input still needs
    residual: jax.Array | None  # [..., D], added to its output


class Routing(NamedTuple):
    """What the router of a layer with experts decided."""

    logits: jax.Array  # float32 [..., E]
    ids: jax.Array  # int32 [..., k], the experts of each token, best first


class Mixer(Protocol):
    """The part of a layer in which tokens see each other: attention, or a recurrence."""

    @property
    def rotation(self) -> tuple[RopeConfig, int] | None:
        """The rope that it uses and the size of the heads that it rotates; None for no rope."""

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """The part's parameters, given D."""

    def cache_spec(self) -> CacheSpec:
        """What it keeps of past tokens."""

    def __call__(
        self, p: Params, x: jax.Array, step: Step, entry: Any, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Any]:
        """Mixes hidden states [..., D] of different tokens.

        Args:
          p: the layer's parameters, of which it knows its own.
          x: [..., D].
          step: the tokens' positions, and attention.
          entry: the layer's entry of the cache.
          fused: a norm of x and a residual; None for none.
          backend: what computes.

        Returns:
          [..., D], and the new entry of the cache.
        """


class Mlp(Protocol):
    """The part of a layer that sees each token alone."""

    def param_specs(self, model_dim: int) -> LayerSpecs:
        """The part's parameters, given D."""

    def __call__(
        self, p: Params, x: jax.Array, fused: Fused, backend: Backend
    ) -> tuple[jax.Array, Routing | None]:
        """Transforms hidden states [..., D]; the arguments are those of a Mixer. Also returns the
        routing, if it has experts.
        """


def weight(
    shape: tuple[int, int],
    axes: tuple[str | None, str | None],
    init: Init = "normal",
    *,
    head_dim: int = 1,
) -> ParamSpec:
    """The spec of a weight [I, O], with which hidden states are multiplied."""
    return ParamSpec(
        shape=shape, axes=axes, role="matrix", matrix=_WEIGHT, init=init, head_dim=head_dim
    )


def vector(
    shape: tuple[int, ...], axes: tuple[str | None, ...], init: Init, *, head_dim: int = 1
) -> ParamSpec:
    """The spec of a parameter that is no matrix, such as a bias or a norm's weight."""
    return ParamSpec(shape=shape, axes=axes, role="vector", init=init, head_dim=head_dim)


def bias(of: ParamSpec) -> ParamSpec:
    """The spec of the bias [O] of a weight [I, O]."""
    return vector(of.shape[1:], of.axes[1:], "zeros", head_dim=of.head_dim)


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """Numbers [..., N * H] of all heads as those of each, [..., N, H]."""
    return x.reshape(*x.shape[:-1], num_heads, -1)
