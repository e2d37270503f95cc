"""Fails when a source file is over its limit of lines; names those over the aim.

Knows: the limits of the house style. Deliberately does not judge what is in the lines.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

AIM = 300  # lines
LIMIT = 400
KERNEL_LIMIT = 800  # hand-unrolled code and its tables are long
# Lines of code, without blank ones, comments and docstrings: of one room of flaxen/, and of all.
ROOM_LIMIT = 5_000
PACKAGE_LIMIT = 77_750
SUFFIXES = {".py", ".cc", ".cpp", ".h"}
_WITHOUT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
ROOMS = ("flaxen", "csrc", "tests", "tools", "examples", "benchmarks")


def check(root: Path) -> tuple[list[str], list[str]]:
    """Returns the files over the aim, and the offences against the hard limits, as messages."""
    notes: list[str] = []
    offences: list[str] = []
    room_lines: dict[str, int] = {}
    paths = [path for room in ROOMS for path in sorted((root / room).rglob("*"))]
    for path in paths:
        if path.suffix not in SUFFIXES or "__pycache__" in path.parts:
            continue
        name = path.relative_to(root)
        text = path.read_text(encoding="utf-8")
        num_lines = len(text.splitlines())
        if name.parts[0] == "flaxen":
            room = "/".join(name.parts[:2]) if len(name.parts) > 2 else "flaxen"
            room_lines[room] = room_lines.get(room, 0) + count_code(text)
        is_kernel = name.parts[0] == "csrc"
        limit = KERNEL_LIMIT if is_kernel else LIMIT
        if num_lines > limit:
            offences.append(f"{name}: {num_lines} lines, limit {limit}: split it by idea")
        elif num_lines > AIM and not is_kernel:
            notes.append(f"{name}: {num_lines} lines, aim {AIM}")
    for room, num_lines in room_lines.items():
        if num_lines > ROOM_LIMIT:
            offences.append(
                f"{room}/: {num_lines} lines of code, limit {ROOM_LIMIT}: it is two rooms"
            )
    package_lines = sum(room_lines.values())
    if package_lines > PACKAGE_LIMIT:
        offences.append(f"flaxen/: {package_lines} lines of code in all, limit {PACKAGE_LIMIT}")
    return notes, offences


def count_code(text: str) -> int:
    """The number of lines that hold code. Docstrings, comments and blank lines do not count."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _WITHOUT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - prose)


def main() -> int:
    """Prints what is over the aim or the limit; returns 1 when a limit is broken."""
    notes, offences = check(Path(__file__).resolve().parent.parent)
    for line in notes:
        print(f"note: {line}")
    for line in offences:
        print(f"error: {line}", file=sys.stderr)
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
