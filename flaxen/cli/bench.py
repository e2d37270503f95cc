"""`flaxen bench`: speed on fixed workloads, as shares of the machine's limits."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from flaxen.benchmark.workloads import (
    DESCRIPTIONS,
    NAMES,
    Workload,
    check_fit,
    load_workloads,
    make_workloads,
)
from flaxen.cli.cpu import announce
from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions
from flaxen.cli.options import (
    BatchOptions,
    ContextOptions,
    MeshOptions,
    ModelArgument,
    ModelOptions,
    StepSizeOptions,
    engine_args,
)
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.benchmark.ideal import ModelCost
    from flaxen.benchmark.report import Report
    from flaxen.build import OnProgress, Parts

_bench_option = partial(option, rich_help_panel="Benchmark")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The workloads to measure, the repetitions, and the output."""

    workload: list[str] = _bench_option(
        [],
        "--workload",
        "-w",
        help="Which to run; may be given several times. In numbers of tokens: "
        + "; ".join(f"{name} is {text}" for name, text in DESCRIPTIONS.items())
        + ".",
        show_default="all of them",
    )
    workloads: Path | None = _bench_option(
        None,
        metavar="FILE",
        help="JSON with each workload's token ids, so that two engines run the same requests.",
        show_default="made here, always the same",
    )
    reps: int = _bench_option(3, min=1, help="Repetitions of each, with fresh tokens.")
    json_file: Path | None = _bench_option(
        None, "--json", metavar="FILE", help="Also write the JSON line to this file."
    )


def bench(
    model: ModelArgument,
    options: BenchOptions,
    model_options: ModelOptions,
    context: ContextOptions,
    steps: StepSizeOptions,
    batch: BatchOptions,
    mesh: MeshOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
) -> None:
    """Measure throughput and latency; the last line printed is JSON with every figure."""
    loaded = None if options.workloads is None else load_workloads(options.workloads, options.reps)
    names = choose(options.workload, list(loaded) if loaded else list(NAMES))
    args = engine_args(model, model_options, context, steps, batch, mesh, models, machine)
    cpu = machine.set_up(mesh.num_devices)

    from flaxen.benchmark.cost import model_cost
    from flaxen.benchmark.report import as_json, limits_line, table
    from flaxen.build import build

    console = Console(stderr=True, highlight=False)
    with show_progress(console) as on_progress:
        start_s = time.perf_counter()
        parts = build(args, on_progress)
        startup_s = time.perf_counter() - start_s
        # Through XLA each takes seconds, and the requests that warm up compile those they need.
        while parts.model.backend.pads_cheaply and parts.engine.warm_up():
            pass
        announce(cpu)
        console.print(f"{parts.info.name} in {parts.dtype.name} was ready after {startup_s:.1f} s")
        warmup, chosen = _workloads(parts, names, loaded, options.reps)
        cost = model_cost(parts.model, parts.params, parts.cache_dtype.itemsize)
        report = _measure(parts, cost, warmup, chosen, options.reps, on_progress)
    console.print(limits_line(report.limits))
    console.print(table(report))
    setup = {
        "model": parts.info.name,
        "dtype": parts.dtype.name,
        "quantization": args.quantization,
        "kv_cache_dtype": parts.cache_dtype.name,
        "isa": cpu.isa,
        "num_threads": cpu.num_threads,
        "startup_s": startup_s,
    }
    line = json.dumps(as_json(report, setup))
    if options.json_file is not None:
        options.json_file.write_text(line + "\n", encoding="utf-8")
    print(line)


def _workloads(
    parts: Parts, names: Sequence[str], loaded: dict[str, Workload] | None, num_reps: int
) -> tuple[Workload, list[Workload]]:
    """The warm-up and the workloads to run; all fit the model's length."""
    max_len = parts.info.max_model_len
    made = make_workloads(parts.info.vocab_size, num_reps, max_len=max_len)
    available = made | (loaded or {})
    chosen = [available[name] for name in names]
    for workload in chosen:
        check_fit(workload, max_len)
    return available["warmup"], chosen


def _measure(
    parts: Parts,
    cost: ModelCost,
    warmup: Workload,
    workloads: Sequence[Workload],
    num_reps: int,
    on_progress: OnProgress,
) -> Report:
    """Runs the workloads between two measurements of the machine's limits."""
    from flaxen.benchmark.limits import best_limits, measure_limits
    from flaxen.benchmark.measure import run_requests, run_workload
    from flaxen.benchmark.report import Report

    measure = partial(
        measure_limits,
        parts.dtype.name,
        parts.model.backend,
        num_devices=parts.mesh.num_devices,
    )
    on_progress("machine's limits", 0, 1)
    limits = measure()
    on_progress("machine's limits", 1, 1)
    results = []
    for workload in workloads:
        for batch in warmup.batches:
            run_requests(parts.engine, batch.prompts, batch.num_outputs)
        on_progress(workload.name, 0, num_reps)
        results.append(run_workload(parts.engine, workload, num_reps, on_progress))
    # Measured again, because other programs may have slowed the first measurement.
    limits = best_limits(limits, measure())
    return Report(results=results, cost=cost, limits=limits)


def choose(wanted: list[str], available: list[str]) -> list[str]:
    """Returns the workloads to run: the requested ones, or all but the warm-up.

    Raises:
      ValueError: a requested one does not exist.
    """
    known = [name for name in available if name != "warmup"]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no workload {name!r}: choose from {', '.join(known)}")
    return wanted or known
