"""Writes numbers of bytes for people."""

from __future__ import annotations


def format_size(num_bytes: int) -> str:
    """A number of bytes as the hub writes it: 1.5 GB is 1.5 * 10^9 bytes."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB" if size < 99.95 else f"{size:,.0f} GB"
