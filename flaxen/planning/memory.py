"""The memory of one device: its parts, and whether they fit.

Deliberately does not know models, how the numbers were found, nor JAX.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The compiler's figures of one program, on one device."""

    argument_bytes: int  # parameters, pages, rows
    output_bytes: int  # results that do not take the place of arguments
    temporary_bytes: int
    code_bytes: int
    num_operations: float | None  # None: it does not say
    seconds: float  # that it took to compile here


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of one device: named parts, and what is there."""

    hbm_bytes: int  # of the device
    parts: tuple[tuple[str, int], ...]  # what takes it, in order
    free_for_pages: int | None = None  # of serving; what the engine leaves for pages, maybe below 0
    least_pages: int | None = None  # the bytes of pages without which nothing can be served

    @property
    def used_bytes(self) -> int:
        """All parts."""
        return sum(size for _, size in self.parts)

    @property
    def missing_bytes(self) -> int:
        """By how much it does not fit; 0 if it fits."""
        missing = max(0, self.used_bytes - self.hbm_bytes)
        if self.free_for_pages is None or self.least_pages is None:
            return missing
        return max(missing, self.least_pages - self.free_for_pages)

    @property
    def fits(self) -> bool:
        """Whether the device holds all of it."""
        return self.missing_bytes == 0
