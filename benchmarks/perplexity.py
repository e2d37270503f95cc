"""What quantization costs in perplexity: each format of weights and of the KV cache, by one text.

    python benchmarks/perplexity.py --text opticks.txt --json benchmarks/results/perplexity.json

The text is cut in two: weights are calibrated on the first part, and everything is evaluated on the
second. Each figure is that of `flaxen eval MODEL --data FILE` with the options in its row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A row of the table: the options of `flaxen eval`, and of `flaxen quantize` before it."""

    label: str
    options: tuple[str, ...] = ()
    quantize: tuple[str, ...] | None = None


ROWS = (
    Row("bfloat16", ("--quantization", "none")),
    Row("int8, rounded at load", ("--quantization", "int8")),
    Row("int8 by GPTQ", (), ("--scheme", "int8")),
    Row("fp8, rounded at load", ("--quantization", "fp8")),
    Row("fp8 by GPTQ", (), ("--scheme", "fp8")),
    Row("int4, rounded at load", ("--quantization", "int4")),
    Row("int4 in groups of 64, rounded", (), ("--scheme", "int4", "--method", "rtn")),
    Row("int4 in groups of 64 by GPTQ", (), ("--scheme", "int4")),
    Row("mxfp4, rounded at load", ("--quantization", "mxfp4")),
    Row("bfloat16, KV cache in bfloat16", ("--quantization", "none", "--kv-cache-dtype", "auto")),
    Row("bfloat16, KV cache in int8", ("--quantization", "none", "--kv-cache-dtype", "int8")),
    Row("bfloat16, KV cache in fp8", ("--quantization", "none", "--kv-cache-dtype", "fp8")),
)


def main() -> None:
    options = _options()
    lines = Path(options.text).read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(lines) // 2
    found = []
    with tempfile.TemporaryDirectory() as work:
        calibration, held_out = Path(work, "calibration.txt"), Path(work, "held-out.txt")
        calibration.write_text("".join(lines[:cut]), encoding="utf-8")
        held_out.write_text("".join(lines[cut:])[: options.characters], encoding="utf-8")
        for number, row in enumerate(ROWS):
            model = options.model
            if row.quantize is not None:
                model = str(Path(work, f"quantized-{number}"))
                _quantize(options, model, row.quantize, calibration)
            given = ["--data", str(held_out), "--sequence-length", str(options.sequence_length)]
            result = json.loads(_flaxen("eval", model, *given, *row.options, "--json"))
            found.append({"label": row.label, "options": row.options, **result})
            if row.quantize is not None:
                found[-1]["quantize"] = row.quantize
            print(_line(found[-1], found[0]), flush=True)
    record = {
        "model": options.model,
        "text": Path(options.text).name,
        "samples": options.samples,
        "rows": found,
    }
    if options.json is not None:
        Path(options.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", required=True, help="a plain text of some 100 KB or more")
    parser.add_argument("--characters", type=int, default=80_000, help="of the text's second half")
    parser.add_argument("--samples", type=int, default=64, help="rows of calibration tokens")
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument("--json", help="the file to write")
    return parser.parse_args()


def _quantize(
    options: argparse.Namespace, out: str, given: tuple[str, ...], calibration: Path
) -> None:
    texts = ["--calibration", str(calibration), "--samples", str(options.samples)]
    texts = [] if "rtn" in given else texts
    _flaxen("quantize", options.model, out, *given, *texts)


def _flaxen(*arguments: str) -> str:
    command = [sys.executable, "-m", "flaxen", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _line(result: dict[str, Any], first: dict[str, Any]) -> str:
    more = result["perplexity"] / first["perplexity"] - 1
    return f"| {result['label']} | {result['perplexity']:.3f} | {more:+.2%} |"


if __name__ == "__main__":
    main()
