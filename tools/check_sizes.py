"""Fails when a source file is over its limit of lines; names those over the aim.

Knows: the limits of the house style. Deliberately does not judge what is in the lines.
"""

from __future__ import annotations

import sys
from pathlib import Path

AIM = 300  # lines
LIMIT = 400
KERNEL_LIMIT = 800  # hand-unrolled code and its tables are long
PACKAGE_LIMIT = 20_000  # lines of flaxen/ in all
SUFFIXES = {".py", ".cc", ".cpp", ".h"}
ROOMS = ("flaxen", "csrc", "tests", "tools", "examples", "benchmarks")


def check(root: Path) -> tuple[list[str], list[str]]:
    """Returns the files over the aim, and the offences against the hard limits, as messages."""
    notes: list[str] = []
    offences: list[str] = []
    package_lines = 0
    paths = [path for room in ROOMS for path in sorted((root / room).rglob("*"))]
    for path in paths:
        if path.suffix not in SUFFIXES or "__pycache__" in path.parts:
            continue
        name = path.relative_to(root)
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if name.parts[0] == "flaxen":
            package_lines += num_lines
        is_kernel = name.parts[0] == "csrc" or name.parts[:2] == ("flaxen", "kernels")
        limit = KERNEL_LIMIT if is_kernel else LIMIT
        if num_lines > limit:
            offences.append(f"{name}: {num_lines} lines, limit {limit}: split it by idea")
        elif num_lines > AIM and not is_kernel:
            notes.append(f"{name}: {num_lines} lines, aim {AIM}")
    if package_lines > PACKAGE_LIMIT:
        offences.append(f"flaxen/: {package_lines} lines in all, limit {PACKAGE_LIMIT}")
    return notes, offences


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
