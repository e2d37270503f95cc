"""The scheduler's own time in a step, in steady decode at 16, 256 and 4,096 running sequences.

A step is schedule() for step N+1, then append() for each token of step N, as in the engine. Time
is the thread's own, since others may use the machine. The limit beside it is a bare loop that
decides nothing: it makes one item and appends one token for each sequence. Fails if the time per
sequence grows with their number.

    python benchmarks/scheduler.py [--write]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import dataclass

from report import report

from flaxen.models.cache import Full
from flaxen.protocol import SamplingParams
from flaxen.scheduling.cache.groups import CacheGroup
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.plan import Scheduled
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence

SIZES = (16, 256, 4096)
PAGE_SIZE = 16
SPEC = Full(num_kv_heads=1, head_dim=1)
NUM_STEPS = 200  # the median is reported
MAX_GROWTH = 4  # caches are colder at 4,096 sequences, for about 2; quadratic would be 256
TARGET_US = 1.5  # at 4,096, schedule() alone


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Microseconds for each running sequence in one step."""

    schedule_us: float
    append_us: float
    bare_us: float


def measure(num_running: int) -> Timing:
    """Times NUM_STEPS steps of `num_running` decodes, then ends them all."""
    num_tokens = 2 * PAGE_SIZE + NUM_STEPS + 8
    num_pages = num_running * (-(-num_tokens // PAGE_SIZE) + 1)
    config = EngineConfig(
        max_model_len=num_tokens,
        groups=(CacheGroup(spec=SPEC, layers=(0,), num_pages=num_pages),),
        page_size=PAGE_SIZE,
        max_num_seqs=num_running,
        max_num_batched_tokens=num_running * 2 * PAGE_SIZE,
    )
    scheduler = Scheduler(config)
    sequences = []
    for i in range(num_running):
        # Sequences of all lengths, so that each step allocates a realistic number of pages.
        tokens = list(range(i, i + PAGE_SIZE + i % PAGE_SIZE + 1))
        sequence = Sequence(
            request_id=str(i),
            index=0,
            sampling=SamplingParams(max_tokens=None),
            tokens=tokens,
            num_prompt_tokens=len(tokens),
        )
        sequences.append(sequence)
        scheduler.add(sequence)
    before = scheduler.schedule()
    assert len(before.items) == num_running

    schedule_s, append_s = [], []
    gc.collect()
    for token_id in range(NUM_STEPS):
        t0 = time.thread_time()
        plan = scheduler.schedule()
        t1 = time.thread_time()
        for item in before.items:
            scheduler.append(item.sequence, token_id)
        t2 = time.thread_time()
        assert len(plan.items) == num_running
        before = plan
        schedule_s.append(t1 - t0)
        append_s.append(t2 - t1)
    for sequence in sequences:
        scheduler.end(sequence)
    assert scheduler.pools.num_used == 0
    per_sequence = 1e6 / num_running
    return Timing(
        schedule_us=statistics.median(schedule_s) * per_sequence,
        append_us=statistics.median(append_s) * per_sequence,
        bare_us=statistics.median(bare_seconds(sequences)) * per_sequence,
    )


def bare_seconds(sequences: list[Sequence]) -> list[float]:
    """A lower bound: the time in which Python makes an item and appends a token per sequence."""
    times = []
    for _ in range(NUM_STEPS):
        t0 = time.thread_time()
        items = []
        for sequence in sequences:
            items.append(Scheduled(sequence, 0, 1, 1, True, False))
            sequence.tokens.append(0)
        times.append(time.thread_time() - t0)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the scheduler.")
    parser.add_argument("--write", action="store_true", help="keep the result in the repository")
    write = parser.parse_args().write

    print(f"{'running':>8} {'schedule':>9} {'append':>9} {'bare loop':>9} {'share':>6} {'step':>9}")
    print(f"{'':>8} {'us/seq':>9} {'us/seq':>9} {'us/seq':>9} {'%':>6} {'us':>9}")
    figures: dict[str, float] = {}
    totals: dict[int, float] = {}
    for size in SIZES:
        timing = measure(size)
        total = totals[size] = timing.schedule_us + timing.append_us
        share = timing.bare_us / total
        print(
            f"{size:>8} {timing.schedule_us:>9.2f} {timing.append_us:>9.2f} "
            f"{timing.bare_us:>9.2f} {100 * share:>6.0f} {total * size:>9.0f}"
        )
        figures[f"schedule_us_per_sequence_at_{size}"] = round(timing.schedule_us, 3)
        figures[f"append_us_per_sequence_at_{size}"] = round(timing.append_us, 3)
        figures[f"share_of_bare_loop_at_{size}"] = round(share, 3)
    growth = totals[SIZES[-1]] / totals[SIZES[0]]
    figures[f"growth_{SIZES[0]}_to_{SIZES[-1]}"] = round(growth, 3)
    at_most = figures[f"schedule_us_per_sequence_at_{SIZES[-1]}"]
    verdict = "within" if at_most <= TARGET_US else "ABOVE"
    print(
        f"schedule() at {SIZES[-1]}: {at_most:.2f} us a sequence, {verdict} the {TARGET_US} us aim"
    )
    if growth > MAX_GROWTH:
        raise SystemExit(
            f"time per sequence grows {growth:.2f} times from {SIZES[0]} to {SIZES[-1]} running, "
            f"more than {MAX_GROWTH}: something in the scheduler is not linear"
        )
    report("scheduler", figures, write=write)


if __name__ == "__main__":
    main()
