"""What adapters cost: streams that mix eight of them in each batch, beside the base model alone.

One engine serves both in turn; of each the fastest run counts, since others may use the machine.
"base" is steps without any adapter, "half" has them on every other stream, "mixed" on all.

    python benchmarks/adapters.py [--model M] [--dtype D] [--rounds N] [--write]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from report import report

from flaxen.build import Parts, build
from flaxen.engine_args import EngineArgs
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.models.model import Model
from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.adapter import Adapter

NUM_STREAMS, NUM_ADAPTERS, RANK = 16, 8, 16
PROMPT_TOKENS, OUTPUT_TOKENS = 32, 64


def random_adapter(model: Model, seed: int) -> Adapter:
    """A random adapter on all targets, small enough that the model still writes text."""
    config = LoraConfig(rank=RANK)
    rng = np.random.default_rng(seed)

    def random(shape: tuple[int, ...]) -> np.ndarray:
        return (0.001 * rng.standard_normal(shape)).astype(np.float32)

    layers = tuple(
        {
            name: {part: random(shape) for part, shape in parts.items()}
            for name, parts in layer.items()
        }
        for layer in adapter_shapes(model, config)["layers"]
    )
    return Adapter(config=config, layers=layers)


def adapter_of(kind: str, stream: int) -> str | None:
    """The adapter that a stream names in a kind of run."""
    if kind == "base" or (kind == "half" and stream % 2):
        return None
    return f"adapter-{stream // 2 % NUM_ADAPTERS}"


def run(parts: Parts, kind: str, seed: int) -> tuple[float, float]:
    """Decodes all streams to their ends.

    Returns:
      Output tokens a second over the whole run, and of the fastest step with all streams.
    """
    rng = np.random.default_rng(seed)
    engine = parts.engine
    sampling = SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    for stream in range(NUM_STREAMS):
        prompt = rng.integers(100, parts.model.vocab_size, PROMPT_TOKENS).tolist()
        request = Request(
            request_id=str(stream),
            prompt_token_ids=tuple(prompt),
            sampling=sampling,
            adapter=adapter_of(kind, stream),
        )
        engine.add(engine.check(request))
    started, num_tokens, fastest = time.perf_counter(), 0, float("inf")
    while engine.has_work:
        before = time.perf_counter()
        num = sum(len(event.token_ids) for event in engine.step())
        num_tokens += num
        if num == NUM_STREAMS:
            fastest = min(fastest, time.perf_counter() - before)
    return num_tokens / (time.perf_counter() - started), NUM_STREAMS / fastest


def main() -> None:
    """Measures, and prints a table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()

    parts = build(
        EngineArgs(model=args.model, dtype=args.dtype, max_model_len=256, max_num_seqs=NUM_STREAMS),
        lora=LoraLimits(max_loras=NUM_ADAPTERS, max_lora_rank=RANK),
    )
    while parts.engine.warm_up():
        pass
    for index in range(NUM_ADAPTERS):
        parts.engine.adapters.load(f"adapter-{index}", random_adapter(parts.model, index))

    kinds = ("base", "half", "mixed")
    whole, step = dict.fromkeys(kinds, 0.0), dict.fromkeys(kinds, 0.0)
    for number in range(args.rounds + 1):
        for kind in kinds:
            found = run(parts, kind, number)
            if number:  # the first fills the slots
                whole[kind] = max(whole[kind], found[0])
                step[kind] = max(step[kind], found[1])
    figures: dict[str, object] = {
        "model": args.model, "dtype": str(parts.dtype), "num_streams": NUM_STREAMS,
        "num_adapters": NUM_ADAPTERS, "rank": RANK,
        "num_adapter_loads": parts.engine.stats().num_adapter_loads,
    }  # fmt: skip
    print(f"{'':>6} {'tokens/s':>9} {'of base':>8} {'in a step':>10} {'of base':>8}")
    for kind in kinds:
        shares = whole[kind] / whole["base"], step[kind] / step["base"]
        print(f"{kind:>6} {whole[kind]:9.1f} {shares[0]:8.3f} {step[kind]:10.1f} {shares[1]:8.3f}")
        figures |= {
            f"{kind}_tokens_per_s": round(whole[kind], 1),
            f"{kind}_share_of_base": round(shares[0], 4),
            f"{kind}_step_tokens_per_s": round(step[kind], 1),
            f"{kind}_step_share_of_base": round(shares[1], 4),
        }
    report("adapters", figures, write=args.write)


if __name__ == "__main__":
    main()
