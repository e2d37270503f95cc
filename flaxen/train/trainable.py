"""What of a model is trained, and how the forward computes with it.

Deliberately does not know: losses, optimizers, files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from flaxen.models.model import Params


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """From float32 masters to the parameters of a forward."""

    num_adapters: int | None  # n, the leading axis of every master; None where it has none
    # From masters (in a stack, those of one adapter) to the tree of their ParamSpec.
    specs: Callable[[Params], Any]
    # The masters as they are computed with, which is what is differentiated: rounded, packed.
    # Linear. None computes with the masters themselves.
    to_compute: Callable[[Params], Any] | None
    # of those, what is frozen (or None), the tokens' shape and a key: the model's parameters
    assemble: Callable[[Any, Params, tuple[int, int], jax.Array], Params]

    @property
    def num_groups(self) -> int:
        """How many losses there are, each over an equal share of a batch's rows."""
        return self.num_adapters or 1
