"""The router's learned signals on all-MiniLM-L6-v2: their time, and how often they are right.

Heads are trained anew from the templates in flaxen/learned_signals/data, which takes a minute or
two. What no head was trained on is read from packages of PyPI where they are installed, each under
the MIT licence: questions of MMLU (lm-eval) and attacks that people wrote (pyrit). The public
reference's own probes (vllm-sr) are decided by its own configuration. A package that is not
installed is left out, and the result says so.

    python benchmarks/router_learned.py [speed] [others] [probes] [--write]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from learned_data import HARMLESS, attacks, mmlu_questions
from learned_probes import agreement

from flaxen.learned_signals.encoder import Encoder, OpenEncoder
from flaxen.learned_signals.examples import made_tasks, make_examples
from flaxen.learned_signals.fingerprint import ANCHORS
from flaxen.learned_signals.fitting import threshold_for
from flaxen.learned_signals.head import Head
from flaxen.learned_signals.head_file import load_head, save_head
from flaxen.learned_signals.learned_signals import LearnedSignals
from flaxen.learned_signals.making import learned_signals
from flaxen.learned_signals.training import divide, train
from flaxen.router.request import Message, RoutedRequest
from flaxen.router.signals.guards import JailbreakRule
from flaxen.router.signals.heads import DomainRule, FactCheckRule
from flaxen.router_config.signal_settings import ModelCatalog

RESULT = Path(__file__).parent / "results" / "router_learned.json"
RULES: Mapping[str, Sequence[Any]] = {
    "domains": [DomainRule(name="law"), DomainRule(name="math")],
    "fact_check": [FactCheckRule(name="needs_fact_check")],
    "jailbreak": [JailbreakRule(name="attack", threshold=0.5)],
}
WANTED = [("domain", "law"), ("fact_check", "needs_fact_check"), ("jailbreak", "attack")]
PARTS = ("speed", "others", "probes")
TOKENS = 128
CLIENTS, REQUESTS = 32, 640
COMPILING_S = 8  # in which the engine compiles, beside requests, what the first did not need


def some_head(task: str, labels: tuple[str, ...], anchors: np.ndarray) -> Head:
    """A head for its time alone: weights that mean nothing."""
    rows = np.zeros((len(labels), anchors.shape[1]), np.float32)
    return Head(task=task, labels=labels, weights=rows, bias=rows[:, 0], anchors=anchors)


async def open_three(encoder: Encoder) -> LearnedSignals:
    """Three heads of an encoder."""
    anchors = await encoder.pooled(ANCHORS)
    labels = {
        "domain": tuple(f"topic {number}" for number in range(14)),
        "fact_check": ("no_fact_check_needed", "needs_fact_check"),
        "jailbreak": ("benign", "jailbreak"),
    }
    heads = {task: some_head(task, names, anchors) for task, names in labels.items()}
    return await learned_signals(encoder, RULES, ModelCatalog(), heads)


def texts(num: int) -> list[RoutedRequest]:
    """Requests whose texts have TOKENS tokens with the special ones, each another one. Each word is
    one token of BERT's vocabulary."""
    words = ["lake", "river", "stone", "paper", "green", "small", "morning", "winter", "letter"]
    draw = np.random.default_rng(0)
    found = []
    for _ in range(num):
        message = Message(role="user", text=" ".join(draw.choice(words, TOKENS - 2)))
        found.append(RoutedRequest(api="chat", model="auto", messages=(message,)))
    return found


async def speed(encoder: Encoder) -> dict[str, float]:
    """Milliseconds of a request alone, and requests a second of CLIENTS at once."""
    signals = await open_three(encoder)
    requests = texts(REQUESTS + 116)
    await asyncio.gather(*(signals.find(request, WANTED) for request in requests[:16]))
    await asyncio.sleep(COMPILING_S)
    alone = []
    for request in requests[16:116]:
        begin = time.perf_counter()
        await signals.find(request, WANTED)
        alone.append((time.perf_counter() - begin) * 1e3)
    left = iter(requests[116:])

    async def client() -> None:
        for request in left:
            await signals.find(request, WANTED)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return {
        "alone_p50_ms": round(statistics.median(alone), 2),
        "alone_p99_ms": round(float(np.percentile(alone, 99)), 2),
        "requests_per_s_of_32_clients": round(REQUESTS / (time.perf_counter() - begin), 1),
    }


async def all_heads(encoder: Encoder, directory: Path) -> dict[str, Head]:
    """The heads of a directory; those that are missing are trained from templates and put there."""
    directory.mkdir(parents=True, exist_ok=True)
    for task in made_tasks():
        if not (directory / task).exists():
            save_head(await train(task, make_examples(task), encoder), directory / task)
    return {task: load_head(directory / task) for task in made_tasks()}


async def texts_of_others(encoder: Encoder, heads: Mapping[str, Head]) -> dict[str, Any]:
    """What heads are worth on held-out templates, and on what they were not trained on."""
    found: dict[str, Any] = {"held_out": {task: head.report for task, head in heads.items()}}
    if questions := mmlu_questions():
        vectors = await encoder.pooled([text for text, _ in questions])
        domain = heads["domain"]
        best = [domain.labels[index] for index in domain(vectors).argmax(axis=1)]
        right = [one == label for one, (_, label) in zip(best, questions, strict=True)]
        found["domain_on_mmlu"] = {"questions": len(right), "accuracy": round(np.mean(right), 4)}
    found["jailbreak"] = await jailbreaks(encoder, heads["jailbreak"])
    return found


async def jailbreaks(encoder: Encoder, head: Head) -> dict[str, Any]:
    """Recall at one per cent of false alarms, and how often harmless sentences hide an attack."""
    examples = make_examples("jailbreak")
    held = [e for e, p in zip(examples, divide(examples, 0), strict=True) if p == "held out"]
    benign = [example.text for example in held if example.labels == ("benign",)]
    benign += [text for text, _ in mmlu_questions()]
    made = [example.text for example in held if example.labels == ("jailbreak",)]
    threshold = threshold_for((await risks(encoder, head, benign)).tolist(), 0.01)
    found: dict[str, Any] = {"threshold": round(threshold, 4), "benign_texts": len(benign)}
    for name, some in (("templates", made), ("pyrit", attacks())):
        if not some:
            continue
        shares = await risks(encoder, head, some)
        detected = [text for text, share in zip(some, shares, strict=True) if share >= threshold]
        found[name] = {"texts": len(some), "recall": round(len(detected) / len(some), 4)}
        for num in (3, 10, 30):
            draw = np.random.default_rng(num)
            longer = [" ".join([text, *draw.choice(HARMLESS, num)]) for text in detected]
            flipped = (await risks(encoder, head, longer)) < threshold
            found[name][f"flipped_by_{num}_sentences"] = round(float(flipped.mean()), 4)
    return found


async def risks(encoder: Encoder, head: Head, some: Sequence[str]) -> np.ndarray:
    """The greatest probability of an attack in a window of each text."""
    column = head.labels.index("jailbreak")
    windows = [(await encoder.windows(text)).vectors for text in some]
    return np.array([head(rows)[:, column].max() for rows in windows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name}")
    parser.add_argument(
        "--heads", type=Path, default=Path("heads"), help="where heads are, or are put"
    )
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    begin = time.perf_counter()
    with OpenEncoder() as encoder:
        start_s = round(time.perf_counter() - begin, 2)
        if "speed" in options.parts:
            times = asyncio.run(speed(encoder))
            result["speed"] = {"start_s": start_s, **times, "processor": processor()}
        heads = {}
        if options.parts != ["speed"]:
            heads = asyncio.run(all_heads(encoder, options.heads))
        if "others" in options.parts:
            result |= asyncio.run(texts_of_others(encoder, heads))
        if "probes" in options.parts:
            result["probes"] = asyncio.run(agreement(encoder, heads, None))
            threshold = result["jailbreak"]["threshold"]  # of 1% false alarms, by `others`
            result["probes_calibrated"] = asyncio.run(agreement(encoder, heads, threshold))
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if options.write:
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
