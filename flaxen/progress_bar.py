"""How far a batch of prompts is, for who waits for it in Python.

Deliberately does not know prompts.
"""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import Progress


class ProgressBar:
    """Shows how many prompts are done: with a bar, through a callable, or not at all."""

    def __init__(self, wanted: bool | Callable[[int, int], None], total: int) -> None:
        self._call = wanted if callable(wanted) else None
        self._total = total
        # Made only where it is shown: making it takes as long as a small model's layer.
        self._bar = Progress(transient=True) if wanted is True else None
        if self._bar is not None:
            self._task = self._bar.add_task("generating", total=total)

    def __enter__(self) -> ProgressBar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, num_done: int) -> None:
        """Shows a number of prompts."""
        if self._bar is not None:
            self._bar.update(self._task, completed=num_done)
        if self._call is not None:
            self._call(num_done, self._total)
