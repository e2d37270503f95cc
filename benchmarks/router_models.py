"""SmolLM2 and its adapter for sums behind one router: is the route by domain better than either?

`flaxen train` makes the adapter (about 15 minutes on two slow cores), `flaxen route train` the head
of the domain from its own templates, and `flaxen serve --router` answers each question three times,
greedily, eight at once: by the model, by the adapter, and by whatever the router selects. The route
is the topic `math`, or two numbers with a sign between them. Questions: router_questions.py.

    python benchmarks/router_models.py [--adapter DIR] [--heads DIR] [--answers FILE] [--write]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from report import report
from router_questions import Question, general, sums

MODEL, ADAPTER, PORT = "smollm2-135m", "arithmetic", 18_744
NUM_TRAINED, NUM_HELD_OUT, SEED, MAX_TOKENS = 2400, 100, 0, 64
NUM_CLIENTS = 8  # at once
SETTINGS = {
    "data.batch_size": 4,
    "data.sequence_length": 256,
    "data.epochs": 1,
    "optimizer.learning_rate": 1e-3,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 10,
}
ROUTER = r"""
version: v0.3
providers: {defaults: {model: smollm2-135m}, models: [{name: smollm2-135m}, {name: arithmetic}]}
routing:
  signals:
    domains: [{name: math}]
    keywords:
      - {name: signs, operator: OR, method: regex, keywords: ['\d ?[-+*/x] ?\d']}
  decisions:
    - name: sums
      rules:
        operator: OR
        conditions: [{type: keyword, name: signs}, {type: domain, name: math}]
      modelRefs: [{model: arithmetic}]
"""
WAYS = {"base": MODEL, "adapter": ADAPTER, "routed": "auto"}


def main() -> None:
    """Trains what is not given, asks, and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", type=Path, help="an adapter that was trained before")
    parser.add_argument("--heads", type=Path, help="heads that were trained before")
    parser.add_argument("--answers", type=Path, help="keeps the answers of a run that ends early")
    parser.add_argument("--write", action="store_true", help="write the JSON under results/")
    options = parser.parse_args()
    records, held_out = sums(NUM_TRAINED, NUM_HELD_OUT, SEED)
    with tempfile.TemporaryDirectory(prefix="flaxen-models-") as name:
        directory = Path(name)
        adapter = options.adapter or train(records, directory)
        heads = options.heads or directory / "heads"
        if options.heads is None:
            heads.mkdir()
            flaxen("route", "train", "domain", "-o", str(heads / "domain"))
        (directory / "router.yaml").write_text(ROUTER)
        command = ["serve", MODEL, "--enable-lora", "--lora-modules", f"{ADAPTER}={adapter}"]
        command += ["--router", str(directory / "router.yaml"), "--router-heads", str(heads)]
        command += ["--request-timeout-s", "3600"]
        server = subprocess.Popen(
            [sys.executable, "-m", "flaxen", *command, "--port", str(PORT)],
            stderr=subprocess.DEVNULL,
        )
        try:
            wait(server)
            kept = options.answers or directory / "answers.jsonl"
            answers = ask_all([*held_out, *general()], kept)
        finally:
            server.terminate()
            server.wait()
    figures = {
        "num_records": len(records),
        "max_tokens": MAX_TOKENS,
        "clients": NUM_CLIENTS,
        "settings": SETTINGS,
        **{way: summary(found) for way, found in answers.items()},
        "routed_minus": {way: gain(answers["routed"], answers[way]) for way in ("base", "adapter")},
    }
    table(figures)
    report("router-models", figures, write=options.write)


def train(records: list[dict[str, str]], directory: Path) -> Path:
    """Trains the adapter; returns where it is."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": each["question"]},
                {"role": "assistant", "content": each["answer"]},
            ]
        }
        for each in records
    ]
    (directory / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    data, output = str(directory / "sums.jsonl"), str(directory / "run")
    flaxen("train", MODEL, "--data", data, "--output-dir", output, *settings)
    return directory / "run" / "adapter"


def flaxen(*arguments: str) -> None:
    """Runs a command, its progress on the terminal."""
    print(f"$ flaxen {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "flaxen", *arguments], check=True)


def wait(server: subprocess.Popen[bytes]) -> None:
    """Waits until the server answers."""
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with exit code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the server was not ready after 300 s")


def ask_all(questions: list[Question], kept: Path) -> dict[str, list[dict[str, Any]]]:
    """The answers of each way; the ways take turns, the first one too.

    Args:
      kept: a file of the answers; those that are in it are not asked for again.
    """
    for model in WAYS.values():  # programs are compiled
        ask(model, questions[0])
    draw = random.Random(SEED)
    asked = [(way, each) for each in questions for way in draw.sample(list(WAYS), len(WAYS))]
    lines = kept.read_text().splitlines() if kept.exists() else []
    clients = ThreadPoolExecutor(NUM_CLIENTS)
    try:
        rest = asked[len(lines) :]
        with kept.open("a") as file:
            for answer in clients.map(lambda one: ask(WAYS[one[0]], one[1]), rest):
                print(json.dumps(answer), file=file, flush=True)
    finally:
        clients.shutdown(cancel_futures=True)
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for (way, _), line in zip(asked, kept.read_text().splitlines(), strict=True):
        answers[way].append(json.loads(line))
    return answers


def ask(model: str, question: Question) -> dict[str, Any]:
    """Asks one question; says what came of it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question.text}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    url, headers = (
        f"http://127.0.0.1:{PORT}/v1/chat/completions",
        {"content-type": "application/json"},
    )
    begin_s = time.perf_counter()
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=1200) as response:
        answer = json.load(response)
        selected = response.headers.get("x-vsr-selected-model", model)
        warnings = response.headers.get("x-vsr-response-warnings", "")
    seconds = time.perf_counter() - begin_s
    assert warnings in ("", "no_decision"), warnings  # nothing is unclassified
    text = answer["choices"][0]["message"]["content"] or ""
    return {
        "kind": question.kind,
        "is_right": question.is_right(text),
        "tokens": answer["usage"]["completion_tokens"],
        "seconds": seconds,
        "is_sums": selected == ADAPTER,
        "question": question.text,
        "answer": text,
    }


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Quality with its 95% interval (Wilson), tokens and latency, of all and of each part."""
    parts = {
        "all": found,
        "sums": [each for each in found if each["kind"].startswith("sum ")],
        "general": [each for each in found if not each["kind"].startswith("sum ")],
    }
    kinds = sorted({each["kind"] for each in found})
    return {
        **{name: figures_of(some) for name, some in parts.items()},
        "right_by_kind": {
            kind: [sum(e["is_right"] for e in found if e["kind"] == kind),
                   sum(e["kind"] == kind for e in found)]
            for kind in kinds
        },
    }  # fmt: skip


def figures_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of some answers."""
    num, right = len(found), sum(each["is_right"] for each in found)
    times = sorted(each["seconds"] for each in found)
    low, high = wilson(right, num)
    return {
        "questions": num,
        "right": round(right / num, 3),
        "right_from": round(low, 3),
        "right_to": round(high, 3),
        "tokens_mean": round(statistics.fmean(each["tokens"] for each in found), 1),
        "p50_s": round(times[num // 2], 3),
        "p90_s": round(times[int(0.9 * num)], 3),
        "share_by_adapter": round(sum(each["is_sums"] for each in found) / num, 3),
    }


def wilson(right: int, num: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share."""
    share, squared = right / num, z * z / num
    middle = (share + squared / 2) / (1 + squared)
    half = z / (1 + squared) * math.sqrt(share * (1 - share) / num + squared / num / 4)
    return middle - half, middle + half


def gain(mine: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, float]:
    """How much better one way is than another on the same questions: the difference with its 95%
    interval, from 10,000 samples of the questions with replacement."""
    pairs = [a["is_right"] - b["is_right"] for a, b in zip(mine, other, strict=True)]
    draw = random.Random(SEED)
    drawn = sorted(statistics.fmean(draw.choices(pairs, k=len(pairs))) for _ in range(10_000))
    low, high = drawn[250], drawn[9_750]
    return {"mean": round(statistics.fmean(pairs), 3), "from": round(low, 3), "to": round(high, 3)}


def table(figures: dict[str, Any]) -> None:
    """Prints the figures."""
    print(
        f"{'':10}{'sums':>8}{'general':>9}{'all':>8}{'interval':>16}"
        f"{'tokens':>8}{'p50 s':>8}{'p90 s':>8}"
    )
    for way in WAYS:
        found = figures[way]
        every = found["all"]
        interval = f"{every['right_from']:.3f}-{every['right_to']:.3f}"
        print(
            f"{way:10}{found['sums']['right']:8.3f}{found['general']['right']:9.3f}"
            f"{every['right']:8.3f}{interval:>16}{every['tokens_mean']:8.1f}"
            f"{every['p50_s']:8.3f}{every['p90_s']:8.3f}"
        )


if __name__ == "__main__":
    main()
