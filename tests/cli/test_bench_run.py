"""The figures of a workload, on an engine that takes the time it is told to."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence

import pytest
from rich.console import Console

from flaxen.cli.bench import choose
from flaxen.cli.bench_ideal import ModelCost
from flaxen.cli.bench_limits import Limits
from flaxen.cli.bench_report import as_json, limits_line, table
from flaxen.cli.bench_run import Bench, run_requests
from flaxen.cli.bench_workloads import Batch, Workload
from flaxen.protocol import EngineStats, Finish, FinishReason, Request, TokenEvent

STEP_S = 0.01
# A step must read 1 byte, and the machine reads 1,000 a second: 1 ms at least.
COST = ModelCost(weight_bytes=1, layer_params=0, unembed_params=0, cache_layers=())
LIMITS = Limits(read_bytes_s=1000, matmul_flops={"float32": 1e9})


class Engine:
    """Every step takes the same time, and brings each request one token."""

    def __init__(self, reason: FinishReason = FinishReason.LENGTH) -> None:
        self.reason = reason
        self.open: deque[tuple[Request, int]] = deque()
        self.num_steps = 0
        self.schedule_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self.open)

    def add(self, request: Request) -> None:
        self.open.append((request, 0))

    def step(self) -> Sequence[TokenEvent]:
        time.sleep(STEP_S)
        self.num_steps += 1
        self.schedule_s += STEP_S / 4
        events = []
        for _ in range(len(self.open)):
            request, num_done = self.open.popleft()
            num_done += 1
            finish = None
            if num_done == request.sampling.max_tokens:
                finish = Finish(
                    reason=self.reason,
                    num_prompt_tokens=len(request.prompt_token_ids),
                    num_output_tokens=num_done,
                    num_cached_tokens=0,
                    queue_s=0.0,
                )
            else:
                self.open.append((request, num_done))
            events.append(TokenEvent(request_id=request.request_id, index=0, finish=finish))
        return events

    def stats(self) -> EngineStats:
        counts = dict.fromkeys(EngineStats.__dataclass_fields__, 0)
        counts |= {"sum_slots_allocated": 8 * self.num_steps, "sum_slots_held": 6 * self.num_steps}
        return EngineStats(**counts)


def bench(engine: Engine) -> Bench:
    return Bench(engine=engine, cost=COST, limits=LIMITS)


def test_throughput_of_a_batch() -> None:
    batch = Batch(prompts=((1, 2), (3, 4)), num_outputs=(5, 10))
    workload = Workload(name="W", description="", batches=(batch,) * 3)
    done: list[int] = []
    result = bench(Engine()).run(workload, 2, done.append)
    assert done == [1, 2]
    assert list(result.figures) == ["output_tok_s"]
    assert len(result.figures["output_tok_s"]) == 2
    # 15 tokens in 10 steps; sleeping may take longer than asked for, never less.
    assert 15 / (20 * STEP_S) < result.median("output_tok_s") <= 15 / (10 * STEP_S)
    assert 0.05 < result.limit_shares[0] <= 0.1
    assert result.kv_waste == pytest.approx(0.25)
    assert 0.12 < result.scheduler_share <= 0.25


def test_a_single_stream_has_its_first_token_timed_apart() -> None:
    batch = Batch(prompts=((1, 2),), num_outputs=(11,), ttft_prompt=(3, 4))
    result = bench(Engine()).run(Workload(name="A", description="", batches=(batch,)), 1, print)
    assert list(result.figures) == ["decode_tok_s", "ttft_ms", "e2e_tok_s"]
    assert 50 < result.median("decode_tok_s") < 150
    assert 10 <= result.median("ttft_ms") < 20
    assert 50 < result.median("e2e_tok_s") <= 100


def test_a_prefill_counts_the_tokens_of_the_prompt() -> None:
    batch = Batch(prompts=(tuple(range(100)),), num_outputs=(1,))
    result = bench(Engine()).run(Workload(name="C", description="", batches=(batch,)), 1, print)
    assert 5_000 < result.figures["prompt_tok_s"][0] <= 10_000


def test_a_request_that_ends_early_is_no_result() -> None:
    engine = Engine(FinishReason.STOP)
    with pytest.raises(RuntimeError, match="bench-0 ended by stop after 3 tokens, not after 3"):
        run_requests(engine, [(1,)], [3])


def test_the_report() -> None:
    batch = Batch(prompts=((1, 2),), num_outputs=(2,))
    result = bench(Engine()).run(
        Workload(name="W", description="two out", batches=(batch,)), 1, print
    )
    console = Console(width=160, record=True)
    console.print(table([result]))
    text = console.export_text()
    assert "W two out" in text
    assert "output tok/s" in text
    assert "25.0%" in text
    assert limits_line(LIMITS) == "memory reads 0.0 GB/s; products 1 GFLOP/s in float32"
    document = json.loads(json.dumps(as_json([result], LIMITS, {"model": "m"})))
    assert document["model"] == "m"
    assert document["workloads"]["W"]["output_tok_s"]["median"] == result.median("output_tok_s")
    assert document["workloads"]["W"]["limit_share"]["runs"] == result.limit_shares
    assert document["hardware"]["num_cpus"] >= 1
    assert document["peak_rss_bytes"] > 2**20
    assert set(document["versions"]) == {"python", "jax", "jaxlib", "numpy"}


def test_the_choice_of_workloads() -> None:
    available = ["A", "C", "warmup"]
    assert choose([], available) == ["A", "C"]
    assert choose(["C"], available) == ["C"]
    with pytest.raises(ValueError, match="there is no workload 'warmup': choose from A, C"):
        choose(["warmup"], available)
