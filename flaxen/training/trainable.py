"""Which parameters of a model are trained, and how the forward uses them.

Deliberately does not know: losses, optimizers, files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from flaxen.models.model import Params
from flaxen.sharding.placement import Placement
from flaxen.training.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Functions from float32 master parameters to the parameters of a forward."""

    # N, the leading axis of every master parameter; None if there is no such axis.
    num_adapters: int | None
    # Master parameters (of one adapter, in a stack) -> the tree of their ParamSpec.
    specs: Callable[[Params], Any]
    # Master parameters -> compute parameters, which are differentiated: rounded and packed. Must be
    # linear. None computes with the master parameters themselves.
    to_compute: Callable[[Params], Any] | None
    # Compute parameters, frozen parameters (or None), the tokens' shape and a key -> the model's
    # parameters.
    assemble: Callable[[Any, Params, tuple[int, int], jax.Array], Params]
    layout: Layout | None = None  # where the masters are on a mesh; None is one device

    @property
    def placement(self) -> Placement | None:
        """The mesh that is trained on; None is one device."""
        return None if self.layout is None else self.layout.placement

    @property
    def num_groups(self) -> int:
        """The number of losses, each over an equal share of a batch's rows."""
        return self.num_adapters or 1
