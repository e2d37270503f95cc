"""The plugin header_mutation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flaxen.router.checks import check_named

# Whoever sends the request sets these: another value would break it.
_OWN = {"connection", "content-encoding", "content-length", "host", "transfer-encoding", "upgrade"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """A header of the request to the model's server."""

    name: str
    value: str = ""

    def __post_init__(self) -> None:
        check_named("name", self.name)
        _check(self.name)
        if any(character in self.name + self.value for character in "\r\n\0"):
            raise ValueError(f"the header {self.name!r} must be one line")


@dataclass(frozen=True, kw_only=True)
class HeaderMutation:
    """Sets (add, update) and removes headers of the request to the model's server."""

    add: tuple[Header, ...] = ()
    update: tuple[Header, ...] = ()
    delete: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.delete:
            _check(name)

    def applied(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers with lower-case names, changed. What is set and removed is removed."""
        changed = {**headers, **{each.name.lower(): each.value for each in self.add + self.update}}
        for name in self.delete:
            changed.pop(name.lower(), None)
        return changed


def _check(name: str) -> None:
    if name.lower() in _OWN:
        raise ValueError(f"the router itself sets the header {name!r}: leave it out")
