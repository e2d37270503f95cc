"""Matches regular expressions of an adapter's configuration in a process with a time limit.

An adapter may come from anywhere, and one pattern can keep Python's `re` busy for years, in a call
that nothing in this process could stop. Deliberately does not know what is matched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

_WORKER = Path(__file__).with_name("patterns_worker.py")
_TIMEOUT_S = 5.0  # starting the process takes 0.03 s, more on a busy machine


def match_patterns(
    field: str,
    kind: Literal["whole", "ends", "layers"],
    patterns: Sequence[str],
    names: Sequence[str],
    *,
    timeout_s: float = _TIMEOUT_S,
) -> list[Any]:
    """Matches patterns against each name.

    Args:
      field: the configuration's field with the patterns, for errors.
      kind: "whole": whether the one pattern is the whole name; "ends": the first pattern that is
        the end of the name's path, or None; "layers": the number behind the first pattern that is
        a part of the name's path, or None.
      patterns: Python's regular expressions.
      names: of modules.
      timeout_s: seconds for all of them.

    Raises:
      ValueError: a pattern is not valid, or matching took too long.
    """
    request = json.dumps({"kind": kind, "patterns": list(patterns), "names": list(names)})
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_WORKER)],
            input=request,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"matching the pattern of {field} took longer than {timeout_s:g} s: list the modules' "
            "names in its place"
        ) from None
    if done.returncode:
        raise ValueError(
            f"the process that matches the pattern of {field} ended with code {done.returncode}: "
            f"{done.stderr.strip()[-200:]}"
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(f"{field} has a pattern that is not valid: {answer['error']}")
    found: list[Any] = answer["found"]
    return found
