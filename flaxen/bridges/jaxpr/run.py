"""The mutable state of one run of a definition.

Deliberately does not know operations: they are in interpret.py and products.py.
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
    """A product with a parameter, recorded during a run."""

    x: Any  # the other factor, if one axis of it is contracted; else None
    leaf: int
    index: int | None  # the layer's index in a parameter of stacked layers


@dataclass(kw_only=True, eq=False)
class Normed:
    """The RMS norm of x, computed only when something other than a product needs it."""

    x: jax.Array
    weight: jax.Array
    eps: float
    backend: Backend
    made: jax.Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self.x.shape

    @property
    def dtype(self) -> Any:
        """The dtype of x."""
        return self.x.dtype

    def array(self) -> jax.Array:
        """The normed values, computed once."""
        if self.made is None:
            self.made = rms_norm(self.x, self.weight, self.eps, backend=self.backend)
        return self.made


@dataclass(kw_only=True)
class Run:
    """The mutable state of one run of a definition."""

    token_shape: tuple[int, ...]  # the shape of the caller's tokens, [T] or [B, T]
    attend: Attend
    cache: Sequence[Any]  # one entry for each layer; empty if there is no cache
    backend: Backend
    specs: list[Full | Sliding] = field(default_factory=list)  # one for each layer that was run
    num_heads: list[int] = field(default_factory=list)  # the query heads of each of these
    entries: list[Any] = field(default_factory=list)  # the new cache's entries
    uses: list[Use] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    leaves: Sequence[Any] = ()  # the parameters
    is_token: Any = None  # [B, T] booleans, False for padding; None if there is no padding
    # Product number -> the products (with their numbers) to compute in one call with it.
    together: Mapping[int, Sequence[tuple[int, Product]]] = field(default_factory=dict)
    # Product number -> its output, computed before its turn.
    made: dict[int, Any] = field(default_factory=dict)
    # id(array) -> the array (so that its id stays in use), and the same with zeros in padding.
    zeroed: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def mark_zeros(self, x: Any) -> None:
        """Records that an array [B, T, ...] has zeros in padding rows."""
        self.zeroed[id(x)] = (x, x)

    def keep_zeros(self, x: Any, made: Any) -> None:
        """Records the same for `made`, computed from x, if x has zeros in padding rows."""
        if self.has_zeros(x):
            self.mark_zeros(made)

    def has_zeros(self, x: Any) -> bool:
        """Whether an array is known to have zeros in padding rows."""
        return id(x) in self.zeroed and self.zeroed[id(x)][1] is x


def without_padding(run: Run, x: jax.Array) -> jax.Array:
    """Sets padding rows to zero, which the kernels skip: a definition may have made them nonzero.

    Args:
      run: the current run; it is updated.
      x: [B, T, D]; an array of another shape is returned unchanged.
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
    """Returns a value as an array. A view becomes one too; its parameter then can't be packed."""
    if isinstance(value, Normed):
        return value.array()
    if not isinstance(value, View):
        return value
    run.uses.append(Use(leaf=value.leaf))
    return value.array()


def with_one_input(products: Sequence[Product]) -> dict[int, list[tuple[int, Product]]]:
    """Groups the products that have the same input, such as a layer's q, k and v: Run.together."""
    found: dict[int, list[tuple[int, Product]]] = {}
    first: dict[int, int] = {}
    for number, product in enumerate(products):
        if product.x is None:
            continue
        place = first.setdefault(id(product.x), number)
        if place != number:
            found.setdefault(place, []).append((number, replace(product, x=None)))
    return found
