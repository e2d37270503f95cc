"""The figures of a workload, on an engine that takes the time it is told to."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

import pytest
from rich.console import Console

from flaxen.benchmark.ideal import ModelCost
from flaxen.benchmark.limits import Limits, best_limits
from flaxen.benchmark.measure import Result, run_requests, run_workload
from flaxen.benchmark.report import Report, as_json, limits_line, table
from flaxen.benchmark.workloads import RequestBatch, Workload
from flaxen.build import OnProgress
from flaxen.cli.bench import choose
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
        self.now_s = 0.0
        self.schedule_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self.open)

    def check(self, request: Request) -> Request:
        return request

    def add(self, request: Request) -> None:
        self.open.append((request, 0))

    def step(self) -> Sequence[TokenEvent]:
        self.now_s += STEP_S
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


def run(
    batches: tuple[RequestBatch, ...], on_progress: OnProgress = lambda what, done, total: None
) -> Result:
    """Runs all but the last of several batches."""
    engine = Engine()
    workload = Workload(name="W", description="two out", batches=batches)
    num_reps = max(len(batches) - 1, 1)
    return run_workload(engine, workload, num_reps, on_progress, clock=lambda: engine.now_s)


def test_throughput_of_a_batch() -> None:
    told: list[tuple[str, int, int]] = []
    result = run(
        (RequestBatch(prompts=((1, 2), (3, 4)), num_outputs=(5, 10)),) * 3,
        lambda *progress: told.append(progress),
    )
    assert told == [("W", 1, 2), ("W", 2, 2)]
    # 15 tokens in 10 steps; at best, the prompts and 9 decode steps of 1 ms each.
    assert result.figures == {"output_tok_s": pytest.approx([150, 150])}
    assert result.reps[0].limit_share(COST, LIMITS) == pytest.approx(0.1)
    assert result.kv_waste == pytest.approx(0.25)
    assert result.scheduler_share == pytest.approx(0.25)


def test_a_single_stream_has_its_first_token_timed_apart() -> None:
    result = run((RequestBatch(prompts=((1, 2),), num_outputs=(11,), ttft_prompt=(3, 4)),))
    assert result.figures == {
        "decode_tok_s": pytest.approx([100]),
        "ttft_ms": pytest.approx([10]),
        "e2e_tok_s": pytest.approx([100]),
    }
    # Held against its decode alone: ten steps of at least 1 ms, in 100 ms.
    assert result.reps[0].limit_share(COST, LIMITS) == pytest.approx(0.1)


def test_a_prefill_counts_the_tokens_of_the_prompt() -> None:
    result = run((RequestBatch(prompts=(tuple(range(100)),), num_outputs=(1,)),))
    assert result.figures == {"prompt_tok_s": pytest.approx([10_000])}


def test_a_request_that_ends_early_is_no_result() -> None:
    engine = Engine(FinishReason.STOP)
    with pytest.raises(RuntimeError, match="bench-0 ended by stop after 3 tokens, not after 3"):
        run_requests(engine, [(1,)], [3])


def test_the_report() -> None:
    result = run((RequestBatch(prompts=((1, 2),), num_outputs=(2,)),))
    report = Report(results=[result], cost=COST, limits=LIMITS)
    console = Console(width=80, record=True)
    console.print(table(report))
    text = console.export_text()
    for shown in ("W: two out", "output tok/s", "100-100", "10.0%", "25.0%"):
        assert shown in text
    assert limits_line(LIMITS) == "memory reads 0.0 GB/s; products 1 GFLOP/s in float32"
    document = json.loads(json.dumps(as_json(report, {"model": "m"})))
    assert document["model"] == "m"
    figures = document["workloads"]["W"]
    assert figures["output_tok_s"]["median"] == pytest.approx(100)
    assert figures["limit_share"]["runs"] == report.limit_shares(result)
    assert document["hardware"]["num_cpus"] >= 1
    assert document["peak_rss_bytes"] > 2**20
    assert set(document["versions"]) == {"python", "jax", "jaxlib", "numpy"}


def test_the_best_of_two_measurements() -> None:
    slower = Limits(read_bytes_s=2000, matmul_flops={"float32": 5e8})
    assert best_limits(LIMITS, slower) == Limits(read_bytes_s=2000, matmul_flops={"float32": 1e9})


def test_the_choice_of_workloads() -> None:
    available = ["A", "C", "warmup"]
    assert choose([], available) == ["A", "C"]
    assert choose(["C"], available) == ["C"]
    with pytest.raises(ValueError, match="there is no workload 'warmup': choose from A, C"):
        choose(["warmup"], available)
