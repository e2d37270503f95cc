"""`flaxen bench`: speed on fixed workloads, as shares of what the machine can do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flaxen.cli import options
from flaxen.cli.bench.workloads import (
    DESCRIPTIONS,
    NAMES,
    check_fit,
    load_workloads,
    make_workloads,
)
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.progress import show_progress

BENCH_PANEL = "Benchmark"


def bench(
    model: options.Model,
    workload: Annotated[
        list[str] | None,
        typer.Option(
            "--workload",
            "-w",
            help="Which to run; may be given several times. In numbers of tokens: "
            + "; ".join(f"{name} is {text}" for name, text in DESCRIPTIONS.items())
            + ".",
            show_default="all of them",
            rich_help_panel=BENCH_PANEL,
        ),
    ] = None,
    workloads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON with each workload's token ids, so that two engines run the same requests.",
            show_default="made here, always the same",
            rich_help_panel=BENCH_PANEL,
        ),
    ] = None,
    reps: Annotated[
        int,
        typer.Option(
            min=1, help="Repetitions of each, with fresh tokens.", rich_help_panel=BENCH_PANEL
        ),
    ] = 3,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Also write the JSON line to this file.",
            rich_help_panel=BENCH_PANEL,
        ),
    ] = None,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = 64,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 512,
    page_size: options.PageSize = 16,
    kv_cache_size: options.KvCacheSize = None,
    prefix_caching: options.PrefixCaching = True,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    compile_cache: options.CompileCache = None,
    compile_size: options.CompileSize = None,
    offline: options.Offline = False,
) -> None:
    """Measure throughput and latency; the last line printed is JSON with every figure."""
    loaded = None if workloads is None else load_workloads(workloads, reps)
    names = choose(workload or [], list(loaded) if loaded else list(NAMES))
    args = options.engine_args(
        model,
        compile_cache,
        dtype=dtype,
        impl=impl,
        quantization=quantization,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        kv_cache_bytes=kv_cache_size,
        enable_prefix_caching=prefix_caching,
        seed=seed,
        compile_sizes=tuple(compile_size or ()),
        offline=offline,
    )
    cpu = set_up_cpu(threads)

    from flaxen.build import build
    from flaxen.cli.bench import limits as bench_limits
    from flaxen.cli.bench import report as bench_report
    from flaxen.cli.bench import run as bench_run
    from flaxen.cli.bench.cost import model_cost

    console = Console(stderr=True, highlight=False)
    with show_progress(console) as on_progress:
        start_s = time.perf_counter()
        parts = build(args, on_progress, definition=find_definition(model, checkpoint))
        startup_s = time.perf_counter() - start_s
        on_progress("machine's limits", 0, 1)
        limits = bench_limits.measure(parts.dtype.name)
        on_progress("machine's limits", 1, 1)
        announce(cpu)
        console.print(f"{parts.info.name} in {parts.dtype.name} was ready after {startup_s:.1f} s")
        max_len = parts.info.max_model_len
        made = make_workloads(parts.info.vocab_size, reps, max_len=max_len)
        chosen = loaded or made
        for name in names:
            check_fit(chosen[name], max_len)
        warmup = made["warmup"] if loaded is None else loaded.get("warmup", made["warmup"])
        results = []
        for name in names:
            for batch in warmup.batches:
                bench_run.run_requests(parts.engine, batch.prompts, batch.num_outputs)
            on_progress(name, 0, reps)
            results.append(bench_run.run_workload(parts.engine, chosen[name], reps, on_progress))
        # Once more: what others ran at the start may have made the machine look slower than it is.
        limits = bench_limits.best(limits, bench_limits.measure(parts.dtype.name))
    cost = model_cost(parts.model, parts.params, parts.dtype.itemsize)
    report = bench_report.Report(results=results, cost=cost, limits=limits)
    console.print(bench_report.limits_line(limits))
    console.print(bench_report.table(report))
    setup = {
        "model": parts.info.name,
        "dtype": parts.dtype.name,
        "quantization": quantization,
        "isa": cpu.isa,
        "num_threads": cpu.num_threads,
        "startup_s": startup_s,
    }
    line = json.dumps(bench_report.as_json(report, setup))
    if json_file is not None:
        json_file.write_text(line + "\n", encoding="utf-8")
    print(line)


def choose(wanted: list[str], available: list[str]) -> list[str]:
    """Returns the workloads to run: those asked for, or all but the warm-up.

    Raises:
      ValueError: one asked for does not exist.
    """
    known = [name for name in available if name != "warmup"]
    for name in wanted:
        if name not in known:
            raise ValueError(f"there is no workload {name!r}: choose from {', '.join(known)}")
    return wanted or known
