"""How fast answers with a structure are, beside the same without: 16 streams of SmolLM2-135M.

Each round generates the same number of tokens without a structure, for a JSON schema and for a
grammar, one after the other, all sampled with one seed. Neither can end before the tokens do. About
two minutes on two cores. Ends with one JSON line.

    python benchmarks/structured_output.py [--write] [ROUNDS]
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

from report import report

from flaxen import LLM, SamplingParams, StructuredOutputs

STREAMS, TOKENS = 16, 128
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "friends": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "height": {"type": "number"}},
                "required": ["name", "height"],
                "additionalProperties": False,
            },
            "minItems": 100,
        },
    },
    "required": ["name", "age", "friends"],
    "additionalProperties": False,
}
KINDS = {
    "plain": None,
    "json": StructuredOutputs(json=SCHEMA),
    "grammar": StructuredOutputs(grammar='start: (WORD " "){300}\nWORD: /[A-Za-z]+/'),
}


def tokens_per_second(llm: LLM, structure: StructuredOutputs | None) -> float:
    """Generates one round of a kind."""
    params = SamplingParams(
        max_tokens=TOKENS, temperature=0.8, seed=1, ignore_eos=True, structured_outputs=structure
    )
    prompts = [f"A record of person {i} and all friends:" for i in range(STREAMS)]
    started = time.perf_counter()
    outputs = llm.generate(prompts, params)
    seconds = time.perf_counter() - started
    num_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    assert num_tokens == STREAMS * TOKENS, "an answer ended early"
    return num_tokens / seconds


def main() -> None:
    """Measures the kinds in turn, after one round that compiles."""
    numbers = [each for each in sys.argv[1:] if each != "--write"]
    rounds = int(numbers[0]) if numbers else 5
    llm = LLM("smollm2-135m")
    llm.warm_up()
    speeds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_ in range(rounds + 1):
        for kind, structure in KINDS.items():
            speed = tokens_per_second(llm, structure)
            if round_ > 0:
                speeds[kind].append(round(speed, 1))
    medians = {kind: statistics.median(values) for kind, values in speeds.items()}
    result: dict[str, Any] = {
        "streams": STREAMS,
        "tokens": TOKENS,
        "tokens_per_second": speeds,
        "share_of_plain": {
            kind: round(median / medians["plain"], 3) for kind, median in medians.items()
        },
    }
    report("structured-output", result, write="--write" in sys.argv)


if __name__ == "__main__":
    main()
