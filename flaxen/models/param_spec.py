"""What a model tells about each of its parameters: shape, logical axes, use, and how it starts.

Packing, sharding, adapters, optimizers and plans all follow from it. Deliberately does not know
arrays, models, or the names of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Which axes of a parameter are a weight's inputs and outputs, each in the given order."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layers: int | None = None  # the axis along which weights of several layers are stacked


# How a model uses a parameter: decides whether it decays, is orthogonalised, adapted or packed.
# - matrix: hidden states are multiplied with it;
# - table: it has a row for each token or position: the embedding, the unembedding, both in one;
# - experts: several matrices, each multiplied with its own part of the hidden states;
# - vector: all else, such as a norm's scale or a bias, however many axes it has.
Role = Literal["matrix", "table", "experts", "vector"]
PACKED_ROLES: tuple[Role, ...] = ("matrix", "table")

# How a parameter starts where a decoder is trained from scratch. "residual" is normal too, and
# smaller, for a weight whose product is added to the residual stream. A recurrence has its own:
# "taps" are a convolution's weights, "decay" is the logarithm of how fast each head forgets, and
# "time_step" the biases of time steps.
Init = Literal["normal", "residual", "ones", "zeros", "taps", "decay", "time_step"]


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """Shape, logical axis names and use of one parameter.

    Raises:
      ValueError: it has a `matrix`, but its role is not matrix or table: only these are packed. Or
        it is a stack of something else than experts.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    role: Role
    matrix: Matrix | None = None  # None if the parameter can't be packed
    init: Init = "normal"
    # How many numbers along an axis named heads or kv_heads stay on one device: those of a head.
    head_dim: int = 1
    lookup_only: bool = False  # a table whose rows are read and never multiplied: an embedding
    is_stack: bool = False  # experts [E, I, O], which are packed and quantized each by itself
    # It is float32 whatever the compute dtype, and never quantized: a router, whose rounding would
    # send tokens to other experts.
    is_wide: bool = False
    share: float = 1.0  # of the tokens that are multiplied with it: experts get k / E of them each

    @property
    def is_multiplied(self) -> bool:
        """Whether hidden states are multiplied with it: it counts in a token's operations."""
        is_product = self.matrix is not None and not self.lookup_only
        return self.role in ("matrix", "experts") or (self.role == "table" and is_product)

    def __post_init__(self) -> None:
        if self.matrix is not None and self.role not in PACKED_ROLES:
            raise ValueError(
                f"a parameter of the role {self.role} can't be packed: its `matrix` must be None, "
                f"got {self.matrix}"
            )
        if self.is_stack and (self.role != "experts" or len(self.shape) != 3):
            raise ValueError(
                f"a stack of weights must be experts [E, I, O], got {self.role} {self.shape}"
            )


def check_sizes(owner: object, *names: str) -> None:
    """Raises ValueError if one of an object's sizes is not above 0."""
    for name in names:
        if getattr(owner, name) <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(owner, name)}")
