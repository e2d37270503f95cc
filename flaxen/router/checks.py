"""What the dataclasses of the router's configuration check alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import field, fields, is_dataclass
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

_LIMITS = "limits"  # the key of a field's metadata

# Whoever sends a request sets these: another value would break it.
_OWN = {"connection", "content-encoding", "content-length", "host", "transfer-encoding", "upgrade"}
_VALUE = re.compile(r"[^\r\n\0\u0100-\U0010ffff]*")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def limited(default: T, least: float, most: float = math.inf) -> T:
    """A field of a `Limited` dataclass, whose number has limits; None is always allowed."""
    return field(default=default, metadata={_LIMITS: (least, most)})


class Limited:
    """A dataclass of which some fields are `limited`.

    Raises:
      ValueError: a number is outside of its limits.
    """

    def __post_init__(self) -> None:
        assert is_dataclass(self)
        for each in fields(self):
            if _LIMITS in each.metadata:
                check_between(each.name, getattr(self, each.name), *each.metadata[_LIMITS])


def check_between(what: str, value: float | None, least: float, most: float = math.inf) -> None:
    """Raises ValueError if a number is given and outside of its limits."""
    if value is None or least <= value <= most:
        return
    limits = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    raise ValueError(f"{what} must be {limits}, got {value:g}")


def check_named(what: str, value: str) -> None:
    """Raises ValueError if a name is blank."""
    if not value.strip():
        raise ValueError(f"{what} must not be blank: give a name")


def check_header(name: str, value: str = "") -> None:
    """Raises ValueError if a header can't be sent on, or is one that the router itself sets."""
    if name.lower() in _OWN:
        raise ValueError(f"the router itself sets the header {name!r}: leave it out")
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise ValueError(
            f"the header {name!r} can't be sent: its name has letters, digits and -, and its value "
            "is one line of Latin-1"
        )


def check_url(what: str, url: str) -> None:
    """Raises ValueError if a URL is not that of a server that is spoken to over HTTP."""
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and (parts.hostname or "").encode("idna")
        _ = parts.port
        if not is_server or parts.fragment or "@" in parts.netloc:
            raise ValueError("it needs http or https, a host, and neither a user nor a fragment")
    except ValueError as error:  # of the port, or of a part of the host's name
        raise ValueError(
            f"{what} can't be asked: {error}; give HOST:PORT as endpoint, or "
            "http://HOST:PORT/PATH as base_url"
        ) from None


def first_twice(names: Iterable[str]) -> str | None:
    """The first name that was there before; None if all are different."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(what: str, text: str) -> float:
    """The seconds of a duration as Go writes it: `300s`, `1m30s`, `250ms`.

    Raises:
      ValueError: it is none.
    """
    total, number, unit = 0.0, "", ""
    for character in f"{text.strip()} ":
        if unit and (character.isdigit() or character in ". "):
            if unit not in _UNITS or not number.replace(".", "", 1).isdigit():
                break
            total += float(number) * _UNITS[unit]
            number = unit = ""
        if character.isdigit() or character == ".":
            number += character
        else:
            unit += character.strip()
    if number or unit or not text.strip() or not math.isfinite(total):
        raise ValueError(f"{what} must be a duration such as 300s, 1m30s or 250ms, got {text!r}")
    return total


def to_seconds(what: str, value: int | str) -> float:
    """The seconds of a duration: as text, or as nanoseconds.

    Raises:
      ValueError: it is none.
    """
    return value / 1e9 if isinstance(value, int) else seconds(what, value)
