"""Finds the code blocks of a Markdown page. Deliberately does not run anything.

A block of Python or YAML whose first line is a comment with a file's name, as `# run.yaml`, is the
content of that file. A block under the comment `<!-- not run: reason -->` is only shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*) *$")
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->")
_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:py|yaml|yml))( .*)?")
_COMMENT_OF_FILE = re.compile(r"<!-- file: (?P<name>[\w./-]+) -->")
SHOWN = ("text", "json", "mermaid")  # what is read, never run


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    line: int  # the number of its first line of code, from 1
    language: str
    code: str
    file: str | None = None  # the file whose content it is
    not_run: str | None = None  # the reason, where it is only shown


def find_blocks(page: str) -> Iterator[Block]:
    """Yields the blocks of a page.

    Raises:
      ValueError: a block has no language, or is never closed.
    """
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    last = ""  # the last line of text that was not empty
    for number, line in enumerate(page.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence is not None:
                if not fence["language"]:
                    raise ValueError(f"the block in line {number} has no language: write ```text")
                opened, lines = (number + 1, fence["language"], fence["indent"]), []
            elif line.strip():
                last = line.strip()
        elif fence is not None and not fence["language"]:
            start, language, indent = opened
            code = "".join(each.removeprefix(indent) + "\n" for each in lines)
            yield _block(start, language, code, last)
            opened, last = None, ""
        else:
            lines.append(line)
    if opened is not None:
        raise ValueError(f"the block in line {opened[0] - 1} is never closed")


def _block(line: int, language: str, code: str, before: str) -> Block:
    not_run = _NOT_RUN.fullmatch(before)
    named = _COMMENT_OF_FILE.fullmatch(before)
    if named is None and language in ("python", "yaml"):
        named = _FILE.fullmatch(code.partition("\n")[0])
    return Block(
        line=line,
        language=language,
        code=code,
        file=named["name"] if named else None,
        not_run=not_run["reason"] if not_run else None,
    )


def find_commands(console: str) -> Iterator[str]:
    """Yields the commands of a console block: lines after "$ ", joined where one ends in a
    backslash. All other lines are output.
    """
    lines = iter(console.splitlines())
    for line in lines:
        if not line.startswith("$ "):
            continue
        command = line.removeprefix("$ ")
        while command.endswith("\\"):
            command += "\n" + next(lines)
        yield command


def pages(root: Path) -> list[Path]:
    """The pages whose blocks are run: the README, and the documents that are no decisions."""
    documents = [
        path for path in sorted(root.glob("docs/**/*.md")) if "decisions" not in path.parts
    ]
    return [root / "README.md", *documents]
