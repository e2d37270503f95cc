"""The part that compares an engine on the device with one by plain XLA, and requests that run
together with the same requests alone.

A tiny model with strong random weights, so that distributions are neither flat nor certain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flaxen.engine.core import Engine
from flaxen.kernels.backend import Backend
from flaxen.models.model import Params
from flaxen.protocol import Request, SamplingParams

from .figures import say
from .subjects import find_backend, make_engine, make_model, random_params

Prompt = tuple[int, ...]


class Answer(NamedTuple):
    """The answer to one request."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    backend = find_backend(args.backend)
    num_prompts, num_outputs = (2, 3) if args.tiny else (16, 32)
    prompts = make_prompts(num_prompts)
    for dtype in ("bfloat16",) if args.tiny else ("float32", "bfloat16"):
        params = random_params(make_model("tiny"), dtype, scale=0.2)
        engine = tiny_engine(backend, params, dtype)
        alone = [answers(engine, [prompt], num_outputs)[0] for prompt in prompts]
        together = answers(engine, prompts, num_outputs)
        reference = tiny_engine(Backend.REFERENCE, params, dtype)
        say(f"same_as_xla_{dtype}", compared(alone, answers(reference, prompts, num_outputs)))
        say(f"batched_as_alone_{dtype}", compared(together, alone))
    if backend is Backend.GPU:
        params = random_params(make_model("tiny"), "bfloat16", scale=0.2)
        invariant = tiny_engine(Backend.GPU_INVARIANT, params, "bfloat16")
        alone = [answers(invariant, [prompt], num_outputs)[0] for prompt in prompts]
        together = answers(invariant, prompts, num_outputs)
        say("batched_as_alone_invariant", compared(together, alone))


def tiny_engine(backend: Backend, params: Params, dtype: str) -> Engine:
    """An engine of two shapes: a prompt is cut into chunks, and batches mix them with decodes."""
    return make_engine(
        make_model("tiny").on(backend),
        params,
        dtype=dtype,
        max_num_seqs=16,
        max_num_batched_tokens=64,
        max_model_len=256,
        typical_len=256,
        compile_sizes=(16, 64),
    )


def make_prompts(num: int) -> list[Prompt]:
    """Prompts of many lengths, always the same."""
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(3, 512, int(rng.integers(5, 100))).tolist()) for _ in range(num)]


def answers(engine: Engine, prompts: Sequence[Prompt], num_outputs: int) -> list[Answer]:
    """Runs requests at once, greedily, with the log-probability of each token."""
    sampling = SamplingParams(temperature=0, max_tokens=num_outputs, ignore_eos=True, logprobs=0)
    for i, prompt in enumerate(prompts):
        request = Request(request_id=str(i), prompt_token_ids=prompt, sampling=sampling)
        engine.add(engine.check(request))
    tokens: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    while engine.has_work:
        for event in engine.step():
            if event.finish is not None and event.finish.error:
                raise RuntimeError(f"a request failed: {event.finish.error}")
            index = int(event.request_id)
            tokens[index] += event.token_ids
            logprobs[index] += [each.logprob for each in event.logprobs or ()]
    pairs = zip(tokens, logprobs, strict=True)
    return [Answer(tuple(ids), tuple(values)) for ids, values in pairs]


def compared(found: Sequence[Answer], expected: Sequence[Answer]) -> dict[str, object]:
    """Counts the tokens that are equal up to the first other one of each answer, and the largest
    difference of the log-probabilities up to there.
    """
    num_equal, num_tokens, largest = 0, 0, 0.0
    is_bitwise = True
    for one, other in zip(found, expected, strict=True):
        equal = [a == b for a, b in zip(one.tokens, other.tokens, strict=True)]
        same = equal.index(False) if False in equal else len(equal)
        num_equal, num_tokens = num_equal + same, num_tokens + len(equal)
        pairs = list(zip(one.logprobs, other.logprobs, strict=True))[:same]
        largest = max([largest, *(abs(a - b) for a, b in pairs)])
        is_bitwise &= same == len(equal) and all(a == b for a, b in pairs)
    return {
        "equal_tokens": num_equal,
        "num_tokens": num_tokens,
        "largest_logprob_difference": float(f"{largest:.3g}"),
        "is_bitwise": is_bitwise,
    }


if __name__ == "__main__":
    main()
