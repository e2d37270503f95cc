"""Writes bytes of memory for readers, in binary units."""

from __future__ import annotations


def show_size(num_bytes: int) -> str:
    """Writes a size for readers: "92.6 MiB"."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}".replace(".0 ", " ")
    return f"{num_bytes} bytes"
