"""The part that measures one shape's decode and prefill through the engine, as shares of the
device's limits.

The most wanted figures come first: what is left when the time is up is missing from the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from flaxen.benchmark.cost import model_cost
from flaxen.benchmark.ideal import ModelCost
from flaxen.engine.core import Engine
from flaxen.execution.step_sizes import StepSizes
from flaxen.memory.step_memory import step_bytes
from flaxen.models.model import Model, Params
from flaxen.protocol import Request, SamplingParams
from flaxen.scheduling.cache.groups import page_bytes

from .figures import rounded, say
from .subjects import find_backend, make_engine, make_model, num_products, random_params

_COMPILERS = 4  # programs that are compiled at once


class Plan(NamedTuple):
    """The sizes of a measurement."""

    num_streams: tuple[int, ...]  # in this order
    prompt_len: int  # tokens, of each stream
    num_outputs: int  # tokens, of each stream
    prefill_len: int  # tokens; 0 measures none
    chunk: int  # tokens of the largest step


FULL = Plan(
    num_streams=(64, 1, 16, 256), prompt_len=128, num_outputs=64, prefill_len=4096, chunk=4096
)
TINY = Plan(num_streams=(4, 1), prompt_len=8, num_outputs=16, prefill_len=32, chunk=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--weights", default="bfloat16", choices=["bfloat16", "int8"])
    parser.add_argument("--backend", default="auto", help="reference is plain XLA")
    parser.add_argument("--streams", help="only these, as 64,1, and no prefill")
    parser.add_argument("--limits", default="{}", help="JSON of the part `limits`")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    plan = TINY if args.tiny else FULL
    if args.streams is not None:
        plan = plan._replace(
            num_streams=tuple(map(int, args.streams.split(","))),
            prefill_len=0,
            chunk=plan.chunk // 2,
        )
    model = make_model("tiny" if args.tiny else args.shape).on(find_backend(args.backend))
    params = random_params(model, "bfloat16", quantized=args.weights == "int8")
    measure(model, params, plan, json.loads(args.limits))


def measure(model: Model, params: Params, plan: Plan, limits: Mapping[str, float]) -> None:
    """Says the figures of a plan, one after the other."""
    largest = max(plan.chunk, *plan.num_streams)
    engine = make_engine(
        model,
        params,
        dtype="bfloat16",
        max_num_seqs=max(plan.num_streams),
        max_num_batched_tokens=largest,
        max_model_len=max(plan.prefill_len + 1, plan.prompt_len + plan.num_outputs),
        typical_len=plan.prompt_len + plan.num_outputs,
        compile_sizes=tuple(sorted({*plan.num_streams, largest})),
    )
    start_s = time.perf_counter()
    with ThreadPoolExecutor(_COMPILERS) as pool:
        list(pool.map(lambda _: compile_all(engine), range(_COMPILERS)))
    say("compile_s", round(time.perf_counter() - start_s, 1))
    say("memory", memory(engine, model, params))
    cost = model_cost(model, params, cache_itemsize=2)
    first, *others = plan.num_streams
    say(f"decode_{first}", decode(engine, plan, first, cost, limits))
    if plan.prefill_len:
        say(f"prefill_{plan.prefill_len}", prefill(engine, model, plan.prefill_len, limits))
    for num_streams in others:
        say(f"decode_{num_streams}", decode(engine, plan, num_streams, cost, limits))


def memory(engine: Engine, model: Model, params: Params) -> dict[str, int | None]:
    """The most memory that the device took so far, beside an engine's own plan (decision 0274)."""
    config = engine.config
    sizes = StepSizes(
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=config.max_num_batched_tokens,
        compiled=config.compile_sizes,
    )
    return {
        "param_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        "pool_bytes": sum(
            group.num_pages * page_bytes(group.spec, len(group.layers), config.page_size, 2)
            for group in config.groups
        ),
        "estimated_step_bytes": step_bytes(
            model, sizes, itemsize=2, max_model_len=config.max_model_len
        ),
        "peak_bytes": (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
    }


def compile_all(engine: Engine) -> None:
    """Compiles what is left, one program after the other."""
    while engine.warm_up():
        pass


def decode(
    engine: Engine, plan: Plan, num_streams: int, cost: ModelCost, limits: Mapping[str, float]
) -> dict[str, object]:
    """The time of the steps in which all streams decode, the second of two runs.

    The share is that of the bytes that a step must read, at the speed of a copy.
    """
    for _ in range(2):
        first_s, last_s, num_tokens = run(engine, num_streams, plan.prompt_len, plan.num_outputs)
    step_s = (last_s - first_s) * num_streams / num_tokens
    length = plan.prompt_len + plan.num_outputs // 2  # tokens, of a stream in the middle of the run
    num_bytes = cost.weight_bytes + num_streams * cost.cache_bytes(length)
    found: dict[str, object] = {
        "tok_s": num_streams / step_s,
        "step_ms": 1000 * step_s,
        "read_bytes_s": num_bytes / step_s,
    }
    if "copy_bytes_s" in limits:
        found["share_of_copy"] = num_bytes / step_s / limits["copy_bytes_s"]
    return rounded(found)


def prefill(
    engine: Engine, model: Model, num_tokens: int, limits: Mapping[str, float]
) -> dict[str, object]:
    """The time to the first token of one prompt, the best of three; products alone are counted."""
    times = []
    for _ in range(3):
        start_s = time.perf_counter()
        first_s, _, _ = run(engine, 1, num_tokens, 1)
        times.append(first_s - start_s)
    layers, table = num_products(model)
    flops = 2 * (layers * num_tokens + table) / min(times)
    found: dict[str, object] = {
        "tok_s": num_tokens / min(times),
        "ttft_ms": 1000 * min(times),
        "flops": flops,
    }
    if "matmul_flops" in limits:
        found["share_of_matmul"] = flops / limits["matmul_flops"]
    return rounded(found)


def run(
    engine: Engine, num_streams: int, prompt_len: int, num_outputs: int
) -> tuple[float, float, int]:
    """Runs equal requests at once.

    Returns:
      When the last of them had its first token, when the first of them ended, and how many tokens
      came in between: all of them decoded in each of these steps.
    """
    rng = np.random.default_rng(0)
    for i in range(num_streams):
        prompt = tuple(rng.integers(3, engine.info.vocab_size, prompt_len).tolist())
        sampling = SamplingParams(temperature=0, max_tokens=num_outputs, ignore_eos=True)
        request = Request(request_id=f"r{i}", prompt_token_ids=prompt, sampling=sampling)
        engine.add(engine.check(request))
    started: set[str] = set()
    first_s, last_s, num_tokens, is_whole = 0.0, 0.0, 0, True
    while engine.has_work:
        events = engine.step()
        now_s = time.perf_counter()
        if len(started) == num_streams and is_whole:
            num_tokens += sum(len(event.token_ids) for event in events)
            last_s = now_s
        for event in events:
            if event.finish is not None:
                is_whole = False
                if event.finish.error:
                    raise RuntimeError(f"{event.request_id} failed: {event.finish.error}")
            if event.request_id not in started:
                started.add(event.request_id)
                first_s = now_s
    if num_outputs > 1 and not num_tokens:
        raise RuntimeError(
            f"one of {num_streams} streams ended before the last one began: {num_outputs} tokens "
            "are too few to measure decode"
        )
    return first_s, last_s, num_tokens


if __name__ == "__main__":
    main()
