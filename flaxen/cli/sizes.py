"""Reads sizes such as 2GiB."""

from __future__ import annotations

import re

import typer

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as "2GiB", "512 MiB", "1.5GB" or "1048576".

    Raises:
      ValueError: the text is not a number with a known unit, or less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(
            f"{text!r} is not a size: write a number and a unit, as 2GiB, 512MiB or 1.5GB"
        )
    size = int(float(match[1]) * factor)
    if size < 1:
        raise ValueError(f"a size must be at least 1 byte, got {text!r}")
    return size


def parse_size_option(text: str | int) -> int:
    """Parses a size for typer, which also passes defaults through here.

    Raises:
      typer.BadParameter: not a size.
    """
    if isinstance(text, int):
        return text
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
