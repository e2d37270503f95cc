"""How SmolLM2's reward rises in examples/grpo.py. About five minutes on two slow cores.

Prints what the example prints, and ends with one JSON line.

    python benchmarks/grpo_smollm2.py [--write] [the example's options]
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from report import report

EXAMPLE = Path(__file__).parents[1] / "examples" / "grpo.py"


def main() -> None:
    options = [option for option in sys.argv[1:] if option != "--write"]
    command = [sys.executable, str(EXAMPLE), *options]
    line = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
    if running.returncode:
        raise SystemExit(running.returncode)
    report("grpo-smollm2", json.loads(line), write="--write" in sys.argv)


if __name__ == "__main__":
    main()
