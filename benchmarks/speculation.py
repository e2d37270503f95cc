"""How fast one stream is with speculation, beside the same without: SmolLM2-135M-Instruct.

Each round answers the same requests without drafts and with each method, one after the other, each
time beginning with another; what counts is the median of the rounds' ratios. The model computes in
bfloat16; the weights are those of its Q4_1 file, so the draft model, the same in int4, is nearly as
good as the model itself. Answers must be equal. Some three minutes on two cores. Ends with one JSON
line.

    python benchmarks/speculation.py [--write] [ROUNDS]
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from report import report

from flaxen import LLM, SamplingParams

TOKENS = 64
SIZES: dict[str, Any] = {"quantization": "none", "kv_cache_bytes": 2**27, "max_num_seqs": 4}
METHODS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "plain_again": None,  # what two engines that do the same differ by
    "ngram": {"method": "ngram"},
    "suffix": {"method": "suffix", "suffix_decoding_max_cached_requests": 0},
    "draft_int4": {"model": "smollm2-135m", "quantization": "int4"},
}
LIST = """\
1. Anna lives in Berlin and likes chess.
2. Boris lives in Prague and likes rowing.
3. Clara lives in Vienna and likes painting.
4. Dmitri lives in Oslo and likes skiing.
5. Elena lives in Madrid and likes dancing.
6. Farid lives in Cairo and likes cooking.
7. Greta lives in Zurich and likes climbing.
8. Hugo lives in Paris and likes cycling.
9. Ines lives in Lisbon and likes surfing.
10. Jonas lives in Bergen and likes fishing.
"""
GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
SAMPLED = SamplingParams(temperature=0.8, seed=1, max_tokens=TOKENS, ignore_eos=True)
RANDOM = SamplingParams(temperature=2.0, seed=1, max_tokens=TOKENS, ignore_eos=True)
LETTERS = list(range(100, 108))
# What follows three of eight letters came before, and went on otherwise seven times of eight.
MISLED = replace(RANDOM, allowed_token_ids=tuple(LETTERS))


def answer(llm: LLM, workload: str) -> tuple[float, list[int]]:
    """The seconds of a workload's request, and its tokens."""
    rng = random.Random(0)
    prompts: dict[str, Any] = {
        "copy": f"The list:\n\n{LIST}\nThe same list again:\n\n1. Anna lives",
        # No token follows from those before it.
        "nothing": [rng.randrange(100, 40_000) for _ in range(400)],
        "misleading": rng.choices(LETTERS, k=400),
        "story": "A story of a lion who went to sea:",
    }
    params = {"copy": GREEDY, "nothing": RANDOM, "misleading": MISLED, "story": SAMPLED}
    started = time.perf_counter()
    outputs = llm.generate(prompts[workload], params[workload])
    return time.perf_counter() - started, list(outputs[0].outputs[0].token_ids)


def accepted(llm: LLM) -> tuple[int, int]:
    """The draft tokens so far, and the accepted ones."""
    stats = llm.engine.stats()
    return stats.num_draft_tokens, stats.num_accepted_tokens


def main() -> None:
    """Measures the methods in turn, after one round that compiles and fills prefix caches."""
    numbers = [each for each in sys.argv[1:] if each != "--write"]
    rounds = int(numbers[0]) if numbers else 5
    llms = {
        name: LLM("smollm2-135m", speculative_config=config, **SIZES)
        for name, config in METHODS.items()
    }
    for llm in llms.values():
        llm.warm_up()
    figures: dict[str, Any] = {"tokens": TOKENS, "rounds": rounds}
    for workload in ("copy", "nothing", "misleading", "story"):
        seconds: dict[str, list[float]] = {name: [] for name in llms}
        before = {name: accepted(llm) for name, llm in llms.items()}
        for round_ in range(rounds + 1):
            answers, first = {}, round_ % len(llms)
            for name in [*METHODS][first:] + [*METHODS][:first]:
                took, answers[name] = answer(llms[name], workload)
                if round_ > 0:
                    seconds[name].append(took)
            assert all(each == answers["plain"] for each in answers.values()), "answers differ"
        found: dict[str, Any] = {
            "plain_tokens_per_second": round(TOKENS / statistics.median(seconds["plain"]), 1)
        }
        for name in [each for each in METHODS if each != "plain"]:
            pairs = zip(seconds["plain"], seconds[name], strict=True)
            ratios = sorted(plain / own for plain, own in pairs)
            drafted, right = (
                new - old for new, old in zip(accepted(llms[name]), before[name], strict=True)
            )
            found[name] = {
                "speedup": round(statistics.median(ratios), 3),
                "least": round(ratios[0], 3),
                "most": round(ratios[-1], 3),
                "draft_tokens": drafted,
                "accepted_tokens": right,
            }
        figures[workload] = found
    report("speculation", figures, write="--write" in sys.argv)


if __name__ == "__main__":
    main()
