"""The entry point of the process: sets signal handlers before the first slow import.

Deliberately imports almost nothing: until the handlers are set, Python's own would raise
KeyboardInterrupt in the middle of an import.
"""

from __future__ import annotations

import gc

from flaxen.cli.interrupt import end_at_signals, ignore_signals


def main() -> int:
    """Runs `flaxen` with the arguments of the process. Returns its exit code."""
    end_at_signals()
    # Libraries make millions of objects that stay: looking through them for garbage every 700
    # objects, as Python does, takes a tenth of a command's start.
    gc.set_threshold(50_000, 20, 20)
    from flaxen.cli.main import main as run

    code = run()
    ignore_signals()
    return code
