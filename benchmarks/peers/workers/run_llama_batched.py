"""A worker: llama-batched-bench, the most that llama.cpp does without a server in between.

It makes up its own tokens, so only several requests of one length can run. The model is loaded for
each run, which the times leave out. Arguments: binary (its path), threads. Standard library only.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from .jsonlines import Generate, UnsupportedError, answer


def load(model: str, args: dict[str, Any]) -> tuple[Generate, dict[str, str]]:
    """Checks that the program exists."""
    version = subprocess.run(
        [args["binary"], "--version"], capture_output=True, text=True, check=False
    )

    def generate(prompts: list[list[int]], num_outputs: list[int]) -> tuple[float, int]:
        num_prompts, num_in, num_out = len(prompts), len(prompts[0]), num_outputs[0]
        if num_prompts == 1:
            raise UnsupportedError("llama-server does one stream as fast, on the given tokens")
        if {*map(len, prompts)} != {num_in} or {*num_outputs} != {num_out}:
            raise UnsupportedError("llama-batched-bench runs requests of one length only")
        if num_prompts > 1 and prompts[0][:8] == prompts[-1][:8]:
            raise UnsupportedError("llama-batched-bench does not share a prefix among prompts")
        threads = str(args["threads"])
        num_context = num_prompts * (num_in + num_out)
        command = [
            *(args["binary"], "-m", model, "-c", str(num_context), "--output-format", "jsonl"),
            *("-npp", str(num_in), "-ntg", str(num_out), "-npl", str(num_prompts)),
            *("-t", threads, "-tb", threads),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return float(lines[-1]["t"]), num_prompts * num_out

    return generate, {"llama.cpp": (version.stdout + version.stderr).splitlines()[0]}


if __name__ == "__main__":
    answer(load)
