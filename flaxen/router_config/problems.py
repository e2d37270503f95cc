"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Path = tuple[str | int, ...]  # the keys and indices from the top of the file


@dataclass(frozen=True)
class Problem:
    """One error.

    Attributes:
      line: of the file, from 1; 0 if it has none.
      path: where in the file, as `recipes[0].routing.strategy`.
      text: what is wrong with its value, why, and how to fix it.
    """

    line: int
    path: str
    text: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.path}: {self.text}" if self.path else f"{where}{self.text}"


class ConfigError(ValueError):
    """A configuration that can't be used, with all of its problems, in the order of their lines."""

    def __init__(self, problems: Iterable[Problem], name: str = "") -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        prefix = f"{name}, " if name else ""
        super().__init__("\n".join(f"{prefix}{problem}" for problem in self.problems))


class Problems:
    """Collects problems, so that a reader may see all of them at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, line: int, path: Path, text: str) -> None:
        """Adds one."""
        self.found.append(Problem(line, written(path), text))

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collects what the body raises, and goes on behind it."""
        try:
            yield
        except ConfigError as error:
            self.found.extend(error.problems)

    def raise_any(self) -> None:
        """Raises ConfigError if there are some."""
        if self.found:
            raise ConfigError(self.found)


def error_at(line: int, path: Path, text: str) -> ConfigError:
    """A ConfigError of one problem."""
    return ConfigError([Problem(line, written(path), text)])


def written(path: Path) -> str:
    """A path as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
