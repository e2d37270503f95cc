"""What transformers' class through PyTorch costs beside our decoder: the same weights, in turns.

16 streams of 32 prompt tokens and 64 more. Start-up counts from the resolved model to the first
token. Others may use the machine: medians of the rounds, and of their ratios.

    python benchmarks/bridges.py MODEL_DIR [--rounds N] [--write]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from report import report

from flaxen import LLM, SamplingParams

NUM_STREAMS, PROMPT_TOKENS, OUTPUT_TOKENS = 16, 32, 64
IMPLS = ("flaxen", "torch")


def main() -> None:
    """Measures, and prints a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    prompts = [rng.integers(100, 40_000, PROMPT_TOKENS).tolist() for _ in range(NUM_STREAMS)]
    sampling = SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    engines, starts, texts = {}, {}, {}
    for impl in IMPLS:
        began = time.perf_counter()
        engines[impl] = LLM(args.model, impl=impl, max_num_seqs=NUM_STREAMS, max_model_len=256)
        engines[impl].generate([prompts[0]], SamplingParams(temperature=0, max_tokens=1))
        starts[impl] = time.perf_counter() - began
        engines[impl].warm_up()
    speeds: dict[str, list[float]] = {impl: [] for impl in IMPLS}
    for number in range(args.rounds + 1):
        for impl in IMPLS:
            began = time.perf_counter()
            outputs = engines[impl].generate(prompts, sampling)
            seconds = time.perf_counter() - began
            texts[impl] = [output.outputs[0].token_ids for output in outputs]
            if number:  # the first warms up
                speeds[impl].append(NUM_STREAMS * OUTPUT_TOKENS / seconds)
    ratios = [torch / own for own, torch in zip(speeds["flaxen"], speeds["torch"], strict=True)]
    same = sum(one == other for one, other in zip(texts["flaxen"], texts["torch"], strict=True))
    print(f"{'':>8} {'tokens/s':>9} {'start s':>8}")
    for impl in IMPLS:
        print(f"{impl:>8} {statistics.median(speeds[impl]):9.1f} {starts[impl]:8.1f}")
    print(f"ratio {statistics.median(ratios):.3f}; {same} of {NUM_STREAMS} texts are the same")
    figures: dict[str, object] = {
        "model": args.model.rstrip("/").rpartition("/")[2],
        "num_streams": NUM_STREAMS,
        "tokens_per_s": {impl: [round(each, 1) for each in speeds[impl]] for impl in IMPLS},
        "start_s": {impl: round(starts[impl], 1) for impl in IMPLS},
        "ratio": round(statistics.median(ratios), 3),
        "num_same_texts": same,
    }
    report("bridges", figures, write=args.write)


if __name__ == "__main__":
    main()
