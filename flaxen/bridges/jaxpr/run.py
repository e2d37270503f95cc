"""What is filled in while a definition is run once.

Deliberately does not know operations: interpret.py and products.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.jaxpr.views import Axes, View
from flaxen.kernels.backend import Backend
from flaxen.kernels.rms_norm import rms_norm
from flaxen.models.cache import Full, Sliding
from flaxen.models.model import Attend


@dataclass(frozen=True, kw_only=True)
class Use:
    """One way in which a definition uses a parameter."""

    leaf: int
    inputs: Axes = ()
    outputs: Axes = ()
    layers: int | None = None
    kind: str = "other"  # "product", "rows" of a table, or "other"


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product with a parameter, as it came in a run."""

    x: Any  # what it was multiplied with, if along one axis of it; else None
    leaf: int
    index: int | None  # of the layer, in a parameter that holds several


@dataclass(kw_only=True, eq=False)
class Normed:
    """x after an RMS norm, computed when something other than a product asks for it."""

    x: jax.Array
    weight: jax.Array
    eps: float
    made: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of x."""
        return self.x.shape

    @property
    def dtype(self) -> Any:
        """Of x."""
        return self.x.dtype

    def array(self) -> jax.Array:
        """The values, computed once."""
        if self.made is None:
            self.made = rms_norm(self.x, self.weight, self.eps)
        return self.made


@dataclass(kw_only=True)
class Run:
    """What is filled in while a definition is run once."""

    token_shape: tuple[int, ...]  # of what the caller gave, [T] or [B, T]
    attend: Attend
    cache: Sequence[Any]  # an entry a layer; empty: there are as many as there turn out to be
    backend: Backend
    specs: list[Full | Sliding] = field(default_factory=list)  # of the layers that were run
    entries: list[Any] = field(default_factory=list)  # of the new cache
    uses: list[Use] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    leaves: Sequence[Any] = ()  # the parameters
    is_token: Any = None  # [B, T] booleans: not padding; None: all are
    # By the number of a product, those that are to be made in one call with it, and their numbers.
    together: Mapping[int, Sequence[tuple[int, Product]]] = field(default_factory=dict)
    made: dict[int, Any] = field(default_factory=dict)  # by number, before they were asked for
    # By the id of an array, itself (so that it keeps its id), and it with zeros for padding.
    zeroed: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def mark_zeros(self, x: Any) -> None:
        """Remembers that an array [B, T, ...] has zeros for padding."""
        self.zeroed[id(x)] = (x, x)

    def keep_zeros(self, x: Any, made: Any) -> None:
        """Remembers it of what was made of an array, if that has them."""
        if self.has_zeros(x):
            self.mark_zeros(made)

    def has_zeros(self, x: Any) -> bool:
        """Whether an array is known to have zeros for padding."""
        return id(x) in self.zeroed and self.zeroed[id(x)][1] is x


def without_padding(run: Run, x: jax.Array) -> jax.Array:
    """Zeros in place of padding, which the kernels skip; a definition made something of it.

    Args:
      run: is filled in.
      x: [B, T, D]; another shape is left as it is.
    """
    if run.is_token is None or x.ndim != 3 or x.shape[:2] != run.is_token.shape:
        return x
    if id(x) not in run.zeroed:
        zeroed = jnp.where(run.is_token[..., None], x, 0)
        run.zeroed[id(x)] = (x, zeroed)
        run.mark_zeros(zeroed)
    found: jax.Array = run.zeroed[id(x)][1]
    return found


def plain(run: Run, value: Any) -> Any:
    """An array, also of a view; then the parameter can't be packed."""
    if isinstance(value, Normed):
        return value.array()
    if not isinstance(value, View):
        return value
    run.uses.append(Use(leaf=value.leaf))
    return value.array()


def with_one_input(products: Sequence[Product]) -> dict[int, list[tuple[int, Product]]]:
    """Which products multiply the same, as a layer's queries, keys and values: Run.together."""
    found: dict[int, list[tuple[int, Product]]] = {}
    first: dict[int, int] = {}
    for number, product in enumerate(products):
        if product.x is None:
            continue
        place = first.setdefault(id(product.x), number)
        if place != number:
            found.setdefault(place, []).append((number, replace(product, x=None)))
    return found
