"""Problems whose lines are found by their paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flaxen.router_config.items import Item
from flaxen.router_config.problems import Path, Problems


class Located(Problems):
    """Collects problems of a file that was read, by their paths alone.

    Args:
      file: the file's items, which know the lines.
    """

    def __init__(self, file: Item) -> None:
        super().__init__()
        self._file = file

    def add(self, line: int, path: Path, text: str) -> None:
        """Adds one; line 0 is the line of the path."""
        super().add(line or self._at(path).line, path, text)

    @contextmanager
    def at(self, path: Path) -> Iterator[None]:
        """Collects what a check in the body says of a value."""
        try:
            yield
        except ValueError as error:
            self.add(0, path, str(error))

    def is_given(self, path: Path) -> bool:
        """Whether the file has a value at a path."""
        above, found = self._at(path[:-1]), self._at(path)
        return found is not above

    def _at(self, path: Path) -> Item:
        """The item of a path, or of the longest part of it that there is."""
        item = self._file
        for part in path:
            below = item.value
            if isinstance(below, dict) and part in below:
                item = below[str(part)]
            elif isinstance(below, list) and isinstance(part, int) and part < len(below):
                item = below[part]
            else:
                break
        return item
