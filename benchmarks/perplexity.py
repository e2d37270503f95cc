"""What quantization costs in perplexity: each format of weights and of the KV cache, by one text.

    python benchmarks/perplexity.py --write

The text is cut in two: weights are calibrated on the first part, and everything is evaluated on the
second. Each figure is that of `flaxen eval MODEL --data FILE` with the options in its row.

The text that is taken without `--text` comes with Python: what `help()` prints about the language,
the module `pydoc_data.topics` (PSF License). It differs a little from one version to the next: the
report has the version and the text's hash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from report import report


class Row(NamedTuple):
    """A row of the table: the options of `flaxen eval`, and of `flaxen quantize` before it."""

    label: str
    options: tuple[str, ...] = ()
    quantize: tuple[str, ...] | None = None


PLAIN = ("--quantization", "none")
ROWS = (
    Row("bfloat16", PLAIN),  # the others are compared with it
    Row("float32", (*PLAIN, "--dtype", "float32")),
    Row("as its file holds them"),
    Row("int8, rounded at load", ("--quantization", "int8")),
    Row("fp8, rounded at load", ("--quantization", "fp8")),
    Row("int4, rounded at load", ("--quantization", "int4")),
    Row("mxfp4, rounded at load", ("--quantization", "mxfp4")),
    Row("bfloat16; KV cache in bfloat16", (*PLAIN, "--kv-cache-dtype", "auto")),
    Row("bfloat16; KV cache in int8", (*PLAIN, "--kv-cache-dtype", "int8")),
    Row("bfloat16; KV cache in fp8", (*PLAIN, "--kv-cache-dtype", "fp8")),
    Row("int8 by `flaxen quantize`, rtn", (), ("--scheme", "int8", "--method", "rtn")),
    Row("fp8 by `flaxen quantize`, rtn", (), ("--scheme", "fp8", "--method", "rtn")),
    Row("int4 by `flaxen quantize`, rtn", (), ("--scheme", "int4", "--method", "rtn")),
    Row("int4 by `flaxen quantize`, GPTQ", (), ("--scheme", "int4")),
    Row("int8 by `flaxen quantize`, GPTQ", (), ("--scheme", "int8")),
    Row("fp8 by `flaxen quantize`, GPTQ", (), ("--scheme", "fp8")),
)


def main() -> None:
    """Measures, prints a table row by row, and the JSON."""
    options = _options()
    text = _python_text() if options.text is None else Path(options.text).read_text("utf-8")
    lines = text.splitlines(keepends=True)
    cut = len(lines) // 2
    work = options.directory
    work.mkdir(parents=True, exist_ok=True)
    calibration, held_out = work / "calibration.txt", work / "held-out.txt"
    calibration.write_text("".join(lines[:cut]), encoding="utf-8")
    held_out.write_text("".join(lines[cut:])[: options.characters], encoding="utf-8")
    found = []
    print("| Weights | Perplexity | More than bfloat16 | MB of weights | MB of KV cache |")
    print("| --- | --- | --- | --- | --- |")
    for row in ROWS:
        model = options.model
        if row.quantize is not None:
            model = str(work / "-".join(row.quantize).replace("--", ""))
            if not Path(model).exists():
                _quantize(options, model, row.quantize, calibration)
        given = ["--data", str(held_out), "--sequence-length", str(options.sequence_length)]
        result = json.loads(_flaxen("eval", model, *given, *row.options, "--json"))
        found.append({**result, **row._asdict(), "model": options.model})
        print(_line(found[-1], found[0]), flush=True)
    name = f"Python {sys.version.split()[0]}" if options.text is None else Path(options.text).name
    figures = {
        "text": name,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "calibration_rows": options.samples,
        "rows": found,
    }
    report("perplexity", figures, write=options.write)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", help="a file of some 100 KB or more, in place of Python's")
    parser.add_argument("--characters", type=int, default=80_000, help="of the text's second half")
    parser.add_argument("--samples", type=int, default=64, help="rows of calibration tokens")
    parser.add_argument("--sequence-length", type=int, default=512)
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/tmp/flaxen-perplexity"),
        help="where quantized checkpoints are kept; remove it after a change of the other options",
    )
    parser.add_argument("--write", action="store_true", help="to benchmarks/results")
    return parser.parse_args()


def _python_text() -> str:
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name] for name in sorted(topics))


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
    cache = result["kv_cache_bytes"]
    cells = [
        result["label"],
        f"{result['perplexity']:.3f}",
        f"{more:+.2%}",
        f"{result['weight_bytes'] / 1e6:.0f}",
        "" if cache is None else f"{cache / 1e6:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
