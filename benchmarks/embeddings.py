"""MiniLM's embeddings beside ONNX Runtime's and sentence-transformers', in turns.

Usage: PYTHONPATH=benchmarks python benchmarks/embeddings.py [--peers DIR] [--rounds N]
Inputs are 128 random tokens, alone and 64 at once, from ids to vectors of length 1. Each engine is
a process of its own in each round; the fastest batch of all rounds counts. `--peers` keeps the
peers' environment, which is made where it is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers.install import TORCH, environment
from rich.console import Console
from rich.table import Table

from flaxen.hub.resolve import resolve

NUM_TOKENS = 128
BATCHES = {1: 30, 64: 4}  # batch size -> batches in a round
OURS = {
    "flaxen int8": ("bfloat16", "int8"),
    "flaxen bfloat16": ("bfloat16", "none"),
    "flaxen float32": ("float32", "none"),
}
PEERS = ("onnxruntime-int8", "onnxruntime", "sentence-transformers")
PACKAGES = (TORCH, "onnxruntime", "onnx", "sentence-transformers")
WORKER = Path(__file__).parent / "peers/workers/run_embeddings.py"


def make_inputs(work: Path) -> None:
    """Writes the batches of ids, between those of BERT's special tokens."""
    rng = np.random.default_rng(0)
    inputs = {
        size: [
            [[101, *rng.integers(1000, 30000, NUM_TOKENS - 2).tolist(), 102] for _ in range(size)]
            for _ in range(count)
        ]
        for size, count in BATCHES.items()
    }
    (work / "inputs.json").write_text(json.dumps(inputs))


def run_ours(name: str, work: Path) -> dict[str, Any]:
    """Measures flaxen, in this process: each batch is a call of `LLM.embed`."""
    import flaxen

    dtype, quantization = OURS[name]
    llm = flaxen.LLM("minilm", dtype=dtype, quantization=quantization)
    llm.warm_up()
    found: dict[str, Any] = {}
    for size, batches in json.loads((work / "inputs.json").read_text()).items():
        first = llm.embed(batches[0])[0].outputs.embedding
        times = []
        for batch in batches:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            llm.embed(batch)
            times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
        found[size] = {"times": times, "first": first}
    return found


def show(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Prints a table; returns its numbers."""
    sizes = (f"{size} x {NUM_TOKENS}" for size in BATCHES)
    table = Table("engine", *sizes, "CPU s of 64", "cosine")
    exact = np.asarray(results["sentence-transformers"][0]["1"]["first"])
    summary: dict[str, Any] = {}
    for name, rounds in results.items():
        best = {
            size: np.min([time for each in rounds for time in each[str(size)]["times"]], axis=0)
            for size in BATCHES
        }
        cosine = float(exact @ np.asarray(rounds[0]["1"]["first"]))
        rates = {size: size / best[size][0] for size in BATCHES}
        summary[name] = {"texts_per_s": rates, "cpu_s": best[64][1], "cosine": cosine}
        shown = (f"{rate:,.0f} texts/s" for rate in rates.values())
        table.add_row(name, *shown, f"{best[64][1]:.3f}", f"{cosine:.5f}")
    Console(stderr=True).print(table)
    return summary


def main() -> None:
    """Reads argv, runs the rounds, and prints the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path.home() / ".cache/flaxen-peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours", help=argparse.SUPPRESS)  # this file, as a worker
    args = parser.parse_args()
    work = args.peers / "embeddings"
    if args.ours:
        print(json.dumps(run_ours(args.ours, work)))
        return
    work.mkdir(parents=True, exist_ok=True)
    python = environment(args.peers / "venv_embeddings", *PACKAGES)
    make_inputs(work)
    model = resolve("minilm")
    results: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for name in (*OURS, *PEERS):
            ours = [sys.executable, __file__, "--peers", args.peers, "--ours", name]
            command = ours if name in OURS else [python, WORKER, name, model, work]
            done = subprocess.run(
                [str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True
            )
            results.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
    text = json.dumps(show(results))
    if args.json:
        args.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
