"""The workloads of `flaxen bench`: token ids to prefill, and how many to generate.

Knows: the shapes, and the JSON they are exchanged in with the benchmarks of other engines.
Deliberately does not know engines or clocks. Ids are made up, so the text means nothing: the time
of a greedy step does not depend on which token it is.
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
class Batch:
    """Requests that are submitted together.

    Raises:
      ValueError: no requests, one without a prompt or an output, or lists of different lengths.
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
    """One shape of load, repeated with fresh tokens so that no prefix cache carries over."""

    name: str
    description: str
    batches: tuple[Batch, ...]


Draw = Callable[[int], tuple[int, ...]]  # n -> n fresh token ids


def _same(draw: Draw, num_requests: int, num_in: int, num_out: int) -> Batch:
    prompts = tuple(draw(num_in) for _ in range(num_requests))
    return Batch(prompts=prompts, num_outputs=(num_out,) * num_requests)


def _single(draw: Draw) -> Batch:
    return Batch(prompts=(draw(128),), num_outputs=(128,), ttft_prompt=draw(128))


def _mixed(draw: Draw) -> Batch:
    lengths = random.Random(f"{SEED}/lengths")  # the same in each repetition
    num_in = [lengths.randint(16, 512) for _ in range(64)]
    num_out = [lengths.randint(16, 256) for _ in range(64)]
    return Batch(prompts=tuple(draw(n) for n in num_in), num_outputs=tuple(num_out))


def _shared(draw: Draw) -> Batch:
    prefix = draw(512)
    return Batch(prompts=tuple(prefix + draw(32) for _ in range(32)), num_outputs=(32,) * 32)


_KINDS: dict[str, tuple[str, Callable[[Draw], Batch]]] = {
    "A": ("one stream, 128 in, 128 out", _single),
    "B16": ("16 at once, 128 in, 128 out", lambda draw: _same(draw, 16, 128, 128)),
    "B64": ("64 at once, 128 in, 128 out", lambda draw: _same(draw, 64, 128, 128)),
    "C": ("prefill, 1,024 in, 1 out", lambda draw: _same(draw, 1, 1024, 1)),
    "D": ("64 at once, 16-512 in, 16-256 out", _mixed),
    "E": ("32 at once that share 512, 32 own in, 32 out", _shared),
    "warmup": ("4 at once, 128 in, 16 out", lambda draw: _same(draw, 4, 128, 16)),
}
DESCRIPTIONS = {name: text for name, (text, _) in _KINDS.items() if name != "warmup"}
NAMES = tuple(DESCRIPTIONS)


def make_workloads(vocab_size: int, num_reps: int, seed: int = SEED) -> dict[str, Workload]:
    """Makes every workload, the untimed "warmup" included.

    Args:
      vocab_size: of the model; ids at both ends, where special tokens live, are left out.
      num_reps: repetitions of each, at least 1.
      seed: the same seed gives the same ids.

    Raises:
      ValueError: num_reps is below 1.
    """
    if num_reps < 1:
        raise ValueError(f"the number of repetitions must be at least 1, got {num_reps}")
    margin = vocab_size // 40

    def make(name: str) -> Workload:
        # A stream of its own for each, so that the choice of workloads does not change the ids.
        rng = random.Random(f"{seed}/{name}")

        def draw(n: int) -> tuple[int, ...]:
            return tuple(rng.randrange(margin, vocab_size - margin) for _ in range(n))

        description, make_batch = _KINDS[name]
        count = 1 if name == "warmup" else num_reps
        batches = tuple(make_batch(draw) for _ in range(count))
        return Workload(name=name, description=description, batches=batches)

    return {name: make(name) for name in _KINDS}


def load_workloads(path: Path, num_reps: int) -> dict[str, Workload]:
    """Reads workloads from a JSON file: {"workloads": {name: {"desc", "reps": [...]}}}.

    Each repetition has "prompts" (lists of ids), "out" (lengths) and maybe "ttft_prompt".

    Raises:
      ValueError: the file is not such JSON, or holds fewer repetitions than asked for.
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


def dump_workloads(workloads: dict[str, Workload]) -> str:
    """Returns the JSON that `load_workloads` reads."""
    entries = {
        name: {"desc": w.description, "reps": [_rep(batch) for batch in w.batches]}
        for name, w in workloads.items()
    }
    return json.dumps({"greedy": True, "ignore_eos": True, "workloads": entries})


def num_fresh_prompt_tokens(prompts: Sequence[tuple[int, ...]]) -> int:
    """Prompt tokens that must be computed when the prefix that all share is computed once."""
    first, last = min(prompts), max(prompts)  # in sorted order: what these two share, all share
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return sum(map(len, prompts)) - (len(prompts) - 1) * shared


def _parse(name: str, entry: dict[str, Any]) -> Workload:
    return Workload(
        name=name,
        description=str(entry["desc"]),
        batches=tuple(
            Batch(
                prompts=tuple(tuple(map(int, prompt)) for prompt in rep["prompts"]),
                num_outputs=tuple(map(int, rep["out"])),
                ttft_prompt=tuple(map(int, rep["ttft_prompt"])) if "ttft_prompt" in rep else None,
            )
            for rep in entry["reps"]
        ),
    )


def _rep(batch: Batch) -> dict[str, Any]:
    rep: dict[str, Any] = {"prompts": batch.prompts, "out": batch.num_outputs}
    if batch.ttft_prompt is not None:
        rep["ttft_prompt"] = batch.ttft_prompt
    return rep
