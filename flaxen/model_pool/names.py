"""Finds the model that a request names. Deliberately does not know which models are loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flaxen.model_pool.slot import Slot
from flaxen.server.errors import ApiError

_MAX_NAMED = 20  # the most names that an error lists


def find_slot(slots: Sequence[Slot], name: str | None) -> Slot:
    """Returns the model that has a name, or an adapter of that name; None means the first model.

    An adapter can be named as "adapter" or as "base:adapter".

    Raises:
      ApiError: 404, no such model.
    """
    if name is None:
        return slots[0]
    for slot in slots:
        if name in slot.model.names or name in slot.adapters:
            return slot
    for slot in slots:
        if any(name.removeprefix(f"{base}:") in slot.adapters for base in slot.model.names):
            return slot
    served = " or ".join([*_names(slots)][:_MAX_NAMED])
    raise ApiError(
        404,
        f"the model {name[:80]!r} is not served here: use {served}",
        param="model",
        code="model_not_found",
    )


def _names(slots: Sequence[Slot]) -> Iterator[str]:
    for slot in slots:
        yield from slot.model.names
    for slot in slots:
        yield from slot.adapters
