"""The workloads of `flaxen bench`: token ids to prefill, and how many to generate.

Knows: the shapes, and the JSON they are exchanged in with the benchmarks of other engines.
Deliberately does not know engines or clocks. Token ids are random, because the time of a greedy
step does not depend on the token.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 20261122


@dataclass(frozen=True, kw_only=True)
class RequestBatch:
    """Requests that are submitted together.

    Raises:
      ValueError: there are no requests, one has no prompt or output, or the lists differ in length.
    """

    prompts: tuple[tuple[int, ...], ...]
    num_outputs: tuple[int, ...]  # tokens to generate for each prompt
    ttft_prompt: tuple[int, ...] | None = None  # timed alone with one output token, before the rest

    def __post_init__(self) -> None:
        if not self.prompts or len(self.prompts) != len(self.num_outputs):
            raise ValueError(
                f"a batch needs one output length for each of its prompts, got "
                f"{len(self.prompts)} prompts and {len(self.num_outputs)} lengths"
            )
        if not all(self.prompts) or min(self.num_outputs) < 1:
            raise ValueError("each request of a batch needs at least one token in and one out")


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One kind of load, repeated with new tokens so that the prefix cache does not help."""

    name: str
    description: str
    batches: tuple[RequestBatch, ...]


Draw = Callable[[int], tuple[int, ...]]  # n -> n new token ids
Cut = Callable[[int], int]  # a number of tokens -> that number, limited by the model's length


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """The sizes of a workload, in tokens, for a model with enough room."""

    description: str
    longest: int  # tokens of the longest request, prompt and output
    make: Callable[[Draw, Cut], RequestBatch]


def _same(num_requests: int, num_in: int, num_out: int) -> Callable[[Draw, Cut], RequestBatch]:
    def make(draw: Draw, cut: Cut) -> RequestBatch:
        prompts = tuple(draw(cut(num_in)) for _ in range(num_requests))
        return RequestBatch(prompts=prompts, num_outputs=(cut(num_out),) * num_requests)

    return make


def _single(draw: Draw, cut: Cut) -> RequestBatch:
    return RequestBatch(
        prompts=(draw(cut(128)),), num_outputs=(cut(128),), ttft_prompt=draw(cut(128))
    )


def _mixed(draw: Draw, cut: Cut) -> RequestBatch:
    lengths = random.Random(f"{SEED}/lengths")  # the same in each repetition
    num_in = [cut(lengths.randint(16, 512)) for _ in range(64)]
    num_out = [cut(lengths.randint(16, 256)) for _ in range(64)]
    return RequestBatch(prompts=tuple(draw(n) for n in num_in), num_outputs=tuple(num_out))


def _shared(draw: Draw, cut: Cut) -> RequestBatch:
    prefix = draw(cut(512))
    return RequestBatch(
        prompts=tuple(prefix + draw(cut(32)) for _ in range(32)), num_outputs=(cut(32),) * 32
    )


_KINDS = {
    "A": _Kind(description="one stream, 128 in, 128 out", longest=256, make=_single),
    "B16": _Kind(description="16 at once, 128 in, 128 out", longest=256, make=_same(16, 128, 128)),
    "B64": _Kind(description="64 at once, 128 in, 128 out", longest=256, make=_same(64, 128, 128)),
    "C": _Kind(description="prefill, 1,024 in, 1 out", longest=1025, make=_same(1, 1024, 1)),
    "D": _Kind(description="64 at once, 16-512 in, 16-256 out", longest=768, make=_mixed),
    "E": _Kind(
        description="32 at once that share 512, 32 own in, 32 out", longest=576, make=_shared
    ),
    "warmup": _Kind(description="4 at once, 128 in, 16 out", longest=144, make=_same(4, 128, 16)),
}
DESCRIPTIONS = {name: kind.description for name, kind in _KINDS.items() if name != "warmup"}
NAMES = tuple(DESCRIPTIONS)
_SHORTEST = 18  # positions: with fewer, a shared prefix leaves no token for the rest of the prompt


def make_workloads(
    vocab_size: int, num_reps: int, seed: int = SEED, *, max_len: int | None = None
) -> dict[str, Workload]:
    """Makes all workloads, including the untimed "warmup".

    Args:
      vocab_size: the model's vocabulary size; ids at both ends, where special tokens are, are left
          out.
      num_reps: repetitions of each, at least 1.
      seed: the same seed gives the same ids.
      max_len: the most tokens of a request; longer workloads are cut in proportion, and their
          descriptions say so. None for no limit.

    Raises:
      ValueError: num_reps is below 1, or the model's length is too small.
    """
    if num_reps < 1:
        raise ValueError(f"the number of repetitions must be at least 1, got {num_reps}")
    if max_len is not None and max_len < _SHORTEST:
        raise ValueError(
            f"the model takes {max_len} tokens, and a request of a workload needs at least "
            f"{_SHORTEST}: it can't be benchmarked"
        )
    margin = vocab_size // 40

    def make(name: str) -> Workload:
        # Each workload has its own random stream, so that the choice of workloads does not change
        # the ids.
        rng = random.Random(f"{seed}/{name}")
        kind = _KINDS[name]
        room = kind.longest if max_len is None else min(max_len, kind.longest)

        def draw(n: int) -> tuple[int, ...]:
            return tuple(rng.randrange(margin, vocab_size - margin) for _ in range(n))

        def cut(n: int) -> int:
            return max(1, n * room // kind.longest)

        description = kind.description
        if room < kind.longest:
            description += f", all cut to {room / kind.longest:.0%} for the model's {room} tokens"
        count = 1 if name == "warmup" else num_reps
        batches = tuple(kind.make(draw, cut) for _ in range(count))
        return Workload(name=name, description=description, batches=batches)

    return {name: make(name) for name in _KINDS}


def load_workloads(path: Path, num_reps: int) -> dict[str, Workload]:
    """Reads workloads from a JSON file: {"workloads": {name: {"desc", "reps": [...]}}}.

    Each repetition has "prompts" (lists of ids), "out" (lengths) and maybe "ttft_prompt".

    Raises:
      ValueError: the file is not valid, or has fewer repetitions than requested.
      OSError: the file can't be read.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["workloads"]
        workloads = {name: _parse(name, entry) for name, entry in entries.items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not hold workloads ({type(error).__name__}: {error}): it must be JSON of "
            'the form {"workloads": {"A": {"desc": "...", "reps": [{"prompts": [[1, 2]], '
            '"out": [8]}]}}}'
        ) from error
    for workload in workloads.values():
        held = len(workload.batches)
        if held < num_reps and workload.name != "warmup":
            raise ValueError(
                f"workload {workload.name} of {path} has {held} repetitions, and {num_reps} are "
                f"asked for: lower --reps to {held}"
            )
    return workloads


def check_fit(workload: Workload, max_len: int) -> None:
    """Refuses requests that are longer than the model's length.

    Args:
      workload: a workload from a file.
      max_len: the model's length in tokens.

    Raises:
      ValueError: a request is longer.
    """
    longest = max(
        len(prompt) + num_output
        for batch in workload.batches
        for prompt, num_output in zip(batch.prompts, batch.num_outputs, strict=True)
    )
    if longest > max_len:
        raise ValueError(
            f"workload {workload.name} has a request of {longest} tokens, prompt and output, and "
            f"the model takes {max_len}: leave it out with --workload, or make shorter ones"
        )


def num_fresh_prompt_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """The prompt tokens to compute if the common prefix of all prompts is computed once."""
    # In sorted order, so the common prefix of these two is that of all.
    first, last = min(prompts), max(prompts)
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return sum(map(len, prompts)) - (len(prompts) - 1) * shared


def _parse(name: str, entry: dict[str, Any]) -> Workload:
    return Workload(
        name=name,
        description=str(entry["desc"]),
        batches=tuple(
            RequestBatch(
                prompts=tuple(tuple(map(int, prompt)) for prompt in rep["prompts"]),
                num_outputs=tuple(map(int, rep["out"])),
                ttft_prompt=tuple(map(int, rep["ttft_prompt"])) if "ttft_prompt" in rep else None,
            )
            for rep in entry["reps"]
        ),
    )
