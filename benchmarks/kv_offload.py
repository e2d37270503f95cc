"""The time to the first token of a long conversation, computed and from stored pages.

A first process answers the conversation and stores its pages; a second one is started, and answers
it again, in turns with others of the same length that it must compute. Before each turn it forgets
all that its memory has. The answers must have the same tokens and log-probabilities.

    python benchmarks/kv_offload.py [--tokens 7900] [--rounds 3] [--write NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
MODEL = "smollm2-135m"


def main() -> None:
    """Runs both processes, prints the figures, and perhaps writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=7900)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", metavar="NAME")
    parser.add_argument("--store", help=argparse.SUPPRESS)  # of a process that this one starts
    parser.add_argument("--is-first", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.store is not None:
        print(json.dumps(first(args) if args.is_first else second(args)))
        return
    with tempfile.TemporaryDirectory() as store:
        before = run(args, store, "--is-first")
        size = sum(each.stat().st_size for each in Path(store).rglob("*.pages"))
        after = run(args, store)
    assert before["answer"] == after["answer"], "the bits differ"
    figures = {name: value for name, value in after.items() if name != "answer"}
    ratio = statistics.median(figures["stored_s"]) / statistics.median(figures["computed_s"])
    cold = statistics.median(figures["cold_s"]) / statistics.median(figures["computed_s"])
    found = {
        "model": MODEL, "tokens": args.tokens, "cpu": cpu_name(), "num_cpus": os.cpu_count(),
        "stored_bytes": size, "first_process": before["figures"], **figures,
        "ratio": round(ratio, 4), "ratio_cold_files": round(cold, 4), "same_bits": True,
    }  # fmt: skip
    print(json.dumps(found, indent=1))
    if args.write:
        path = HERE / "results" / f"{args.write}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def run(args: argparse.Namespace, store: str, *more: str) -> Any:
    """A process's figures."""
    options = ["--tokens", str(args.tokens), "--rounds", str(args.rounds), "--store", store]
    command = [sys.executable, __file__, *options, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def start(args: argparse.Namespace, store: str | None) -> Any:
    """An engine with all programs compiled."""
    import flaxen

    llm = flaxen.LLM(
        MODEL, max_model_len=8192, kv_cache_bytes=2**30, kv_offload_dir=store, max_num_seqs=4
    )
    llm.warm_up()
    ask(llm, conversation(600, 99), "warm")  # what a first request finds out for all
    forget(llm)
    return llm


def conversation(num_tokens: int, seed: int) -> tuple[int, ...]:
    """Random tokens: of a real text the same number takes the same time."""
    return tuple(np.random.default_rng(seed).integers(1000, 40000, num_tokens).tolist())


def ask(llm: Any, tokens: tuple[int, ...], name: str) -> tuple[float, list[Any], int]:
    """Seconds to the first token, the answer with its log-probabilities, and the cached tokens."""
    from flaxen.protocol import Request, SamplingParams

    sampling = SamplingParams(max_tokens=8, temperature=0, logprobs=3, ignore_eos=True)
    checked = llm.engine.check(Request(request_id=name, prompt_token_ids=tokens, sampling=sampling))
    answer: list[Any] = []
    first_s = cached = None
    started = time.perf_counter()
    llm.engine.add(checked)
    while llm.engine.has_work:
        for event in llm.engine.step():
            if event.token_ids and first_s is None:
                first_s = time.perf_counter() - started
            answer += [
                list(event.token_ids),
                [[each.logprob, list(each.top)] for each in event.logprobs],
            ]
            cached = event.finish.num_cached_tokens if event.finish is not None else cached
    assert first_s is not None
    assert cached is not None
    return first_s, json.loads(json.dumps(answer)), cached


def forget(llm: Any) -> None:
    """Empties all memory of pages; those on disk stay. What was to be written there is by then."""
    time.sleep(1.0)
    llm.engine.sleep(keeps_weights=True)
    llm.engine.wake_weights()
    llm.engine.wake_cache()


def first(args: argparse.Namespace) -> Any:
    """Computes the conversation with a store and, in turns, others without one."""
    plain, storing = start(args, None), start(args, args.store)
    figures: dict[str, list[float]] = {"computed_s": [], "computed_and_stored_s": []}
    _, answer, _ = ask(storing, conversation(args.tokens, 0), "the conversation")
    for i in range(1, args.rounds + 1):
        for llm, name in ((plain, "computed_s"), (storing, "computed_and_stored_s")):
            figures[name].append(ask(llm, conversation(args.tokens, i), f"{name}{i}")[0])
    return {"answer": answer, "figures": {name: rounded(each) for name, each in figures.items()}}


def second(args: argparse.Namespace) -> Any:
    """Finds the conversation, with its files in memory and not, in turns with computing others."""
    llm = start(args, args.store)
    figures: dict[str, list[float]] = {"computed_s": [], "stored_s": [], "cold_s": []}
    answers = []
    for i in range(args.rounds):
        figures["computed_s"].append(ask(llm, conversation(args.tokens, 50 + i), f"new{i}")[0])
        for name in ("stored_s", "cold_s"):
            forget(llm)
            if name == "cold_s":
                drop_files(Path(args.store))
            first_s, answer, cached = ask(llm, conversation(args.tokens, 0), f"{name}{i}")
            assert cached == (args.tokens - 1) // 16 * 16, f"{cached} tokens came from the store"
            figures[name].append(first_s)
            answers.append(answer)
        forget(llm)
    assert all(each == answers[0] for each in answers)
    return {"answer": answers[0], **{name: rounded(each) for name, each in figures.items()}}


def drop_files(store: Path) -> None:
    """Takes the store's files out of the system's memory."""
    for path in store.rglob("*.pages"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rounded(seconds: list[float]) -> list[float]:
    return [round(each, 4) for each in seconds]


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
