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
from learned_data import attacks, docstrings, joined_questions, lengthened, mmlu_questions
from learned_probes import agreement, table

from flaxen.learned_signals.encoder import Encoder, OpenEncoder
from flaxen.learned_signals.examples import made_tasks, make_examples
from flaxen.learned_signals.fitting import threshold_for
from flaxen.learned_signals.head import Head, HeadStack
from flaxen.learned_signals.head_file import load_head, save_head
from flaxen.learned_signals.making import learned_signals
from flaxen.learned_signals.reading import Reading
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
TOKENS = 128  # 14 sentences of nine tokens, and two special ones
CLIENTS, REQUESTS = 32, 640
FALSE_ALARMS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
WORDS = (10, 30, 100, 300)  # harmless ones at an attack
ATTACKS = 100  # that get harmless words
COMPILING_S = 8  # in which the engine compiles, beside requests, what the first did not need


def texts(num: int) -> list[RoutedRequest]:
    """Requests whose texts have TOKENS tokens with the special ones, each another one, in sentences
    of nine. Each word is one token of BERT's vocabulary."""
    words = ["lake", "river", "stone", "paper", "green", "small", "morning", "winter", "letter"]
    draw = np.random.default_rng(0)
    found = []
    for _ in range(num):
        sentences = [" ".join(draw.choice(words, 8)) + "." for _ in range(TOKENS // 9)]
        message = Message(role="user", text=" ".join(sentences))
        found.append(RoutedRequest(api="chat", model="auto", messages=(message,)))
    return found


async def speed(encoder: Encoder, heads: Mapping[str, Head]) -> dict[str, float]:
    """Milliseconds of a request alone, and requests a second of CLIENTS at once. A text is one
    pass, and another one where pieces of it are read alone: the share of such texts is told."""
    three = {name: heads[name] for name in ("domain", "fact_check", "jailbreak")}
    signals = await learned_signals(encoder, RULES, ModelCatalog(), three)
    requests = texts(REQUESTS + 116)
    await asyncio.gather(*(signals.find(request, WANTED) for request in requests[:16]))
    await asyncio.sleep(COMPILING_S)
    alone, num_passes = [], []
    for request in requests[16:116]:
        begin, before = time.perf_counter(), encoder.num_passes
        await signals.find(request, WANTED)
        alone.append((time.perf_counter() - begin) * 1e3)
        num_passes.append(encoder.num_passes - before)
    left = iter(requests[116:])

    async def client() -> None:
        for request in left:
            await signals.find(request, WANTED)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return {
        "alone_p50_ms": round(statistics.median(alone), 2),
        "alone_p99_ms": round(float(np.percentile(alone, 99)), 2),
        "read_again": round(float(np.mean(np.array(num_passes) > 1)), 2),
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
    """Both curves: recall against false alarms, and how many detections harmless words hide."""
    examples = make_examples("jailbreak")
    held = [e for e, p in zip(examples, divide(examples, 0), strict=True) if p == "held out"]
    calm = {
        "templates": [example.text for example in held if example.labels == ("benign",)],
        "mmlu": [text for text, _ in mmlu_questions()],
        "mmlu_joined": joined_questions(),
        "docstrings": list(docstrings()),
    }
    made = [example.text for example in held if example.labels == ("jailbreak",)]
    calm_risks = {name: await risks(encoder, head, some) for name, some in calm.items() if some}
    every = np.concatenate(list(calm_risks.values()))
    found: dict[str, Any] = {
        "false_alarms": {name: _share(some >= 0.5) for name, some in calm_risks.items()},
        "harmless_texts": len(every),
        "false_alarms_of_all": _share(every >= 0.5),
    }
    for name, some in (("templates", made[:ATTACKS]), ("pyrit", list(attacks()))):
        if not some:
            continue
        shares = await risks(encoder, head, some)
        curve = {str(f): _share(shares >= threshold_for(every.tolist(), f)) for f in FALSE_ALARMS}
        found[name] = {"texts": len(some), "recall": _share(shares >= 0.5), "recall_at": curve}
        detected = [text for text, share in zip(some, shares, strict=True) if share >= 0.5]
        for where in ("after", "before", "bare"):
            found[name][f"flipped_by_words_{where}"] = {
                str(num): _share(await _risks_of(encoder, head, detected, num, where) < 0.5)
                for num in WORDS
            }
    return found


async def _risks_of(
    encoder: Encoder, head: Head, some: Sequence[str], num: int, where: str
) -> np.ndarray:
    some = some[:: max(1, len(some) // ATTACKS)][:ATTACKS]
    return await risks(encoder, head, [lengthened(text, num, where) for text in some])


def _share(of: np.ndarray) -> float:
    return round(float(of.mean()), 4)


async def risks(encoder: Encoder, head: Head, some: Sequence[str]) -> np.ndarray:
    """The probability of an attack in each text, as the router finds it."""
    column, stack = head.labels.index("jailbreak"), HeadStack({"jailbreak": head})

    async def risk(text: str) -> float:
        windows = await encoder.windows(text, with_pieces=True)
        shares = await Reading(windows, stack, encoder.alone).of_pieces("jailbreak")
        return float(shares[:, column].max(initial=0.0))

    found: list[float] = []
    for begin in range(0, len(some), 64):
        found += await asyncio.gather(*map(risk, some[begin : begin + 64]))
    return np.array(found)


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
        heads = asyncio.run(all_heads(encoder, options.heads))
        if "speed" in options.parts:
            times = asyncio.run(speed(encoder, heads))
            result["speed"] = {"start_s": start_s, **times, "processor": processor()}
        if "others" in options.parts:
            result |= asyncio.run(texts_of_others(encoder, heads))
        if "probes" in options.parts:
            result["probes"] = asyncio.run(agreement(encoder, heads))
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if options.write:
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        if result.get("probes"):
            RESULT.with_name("router_probes.md").write_text(table(result["probes"]))


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
