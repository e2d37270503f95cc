"""The plugin header_mutation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flaxen.router.checks import check_header


@dataclass(frozen=True, kw_only=True)
class Header:
    """A header of the request to the model's server."""

    name: str
    value: str = ""

    def __post_init__(self) -> None:
        check_header(self.name, self.value)


@dataclass(frozen=True, kw_only=True)
class HeaderMutation:
    """Sets (add, update) and removes headers of the request to the model's server."""

    add: tuple[Header, ...] = ()
    update: tuple[Header, ...] = ()
    delete: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.delete:
            check_header(name)

    def applied(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers with lower-case names, changed. What is set and removed is removed."""
        changed = {**headers, **{each.name.lower(): each.value for each in self.add + self.update}}
        for name in self.delete:
            changed.pop(name.lower(), None)
        return changed
