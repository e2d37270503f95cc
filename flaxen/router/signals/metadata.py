"""Metadata: the client's own pairs. Anybody can send any, so they must not grant rights."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_name
from flaxen.router.signals.found import Found


@dataclass(frozen=True, kw_only=True)
class MetadataPredicate:
    """What the value of a key must be: equal to a text, one of several (the key `in` of the
    configuration), or there at all.

    Raises:
      ValueError: not exactly one of them is given.
    """

    equals: str | None = None
    in_: tuple[str, ...] = ()
    exists: bool | None = None

    def __post_init__(self) -> None:
        given = (self.equals is not None, bool(self.in_), self.exists is not None)
        if sum(given) != 1:
            raise ValueError(
                f"a predicate of metadata has one of equals, in and exists, got {sum(given)}"
            )


@dataclass(frozen=True, kw_only=True)
class MetadataRule(NamedRule):
    """Whether the value of a key of the request's metadata is as the predicate says."""

    key: str
    predicate: MetadataPredicate

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.key, "key")


def find_metadata(rule: MetadataRule, request: RoutedRequest) -> Found:
    """Whether a rule holds for a request's metadata. Without the key only exists: false does."""
    value = request.metadata.get(rule.key)
    predicate = rule.predicate
    if predicate.exists is not None:
        matched = (value is not None) == predicate.exists
    elif predicate.equals is not None:
        matched = value == predicate.equals
    else:
        matched = value in predicate.in_
    return Found(
        matched=matched,
        reason=f"{rule.key} is {'missing' if value is None else repr(value)}",
    )
