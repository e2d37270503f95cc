"""`make bench-peers`: installs what is missing, measures, shows; the last line is JSON.

Usage: PYTHONPATH=benchmarks python -m peers --help
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from report import report
from rich.console import Console

from flaxen.benchmark.limits import Limits, best_limits, measure_limits
from flaxen.benchmark.report import limits_line
from flaxen.benchmark.workloads import NAMES as WORKLOADS
from flaxen.benchmark.workloads import Workload, load_workloads, make_workloads
from flaxen.kernels.choice import choose_backend

from . import engines, install, servers, show, show_training, trainers
from .changes import parse_changes
from .compare import Engine, Outcome, Plan, compare
from .memory import available_bytes, check_memory
from .serving import Client, ServerOutcome, compare_servers
from .targets import judge_limits, judge_ratios, judge_servers
from .targets_training import judge_trainers
from .training import STEPS_PER_TURN, TrainerOutcome, compare_trainers, make_steps

_LEAST_WIDTH = 130  # characters, that hold a row for all workloads
_ALL_WORKLOADS = (*WORKLOADS, "S", "L")
_STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """All results of one model."""

    model: str
    config: Mapping[str, Any]
    outcomes: list[Outcome]
    server_outcomes: list[ServerOutcome]
    trainer_outcomes: list[TrainerOutcome]


def main() -> None:
    """Reads argv, runs, and prints the JSON line."""
    args = _parser().parse_args()
    for number in _STOPPING:
        signal.signal(number, _stop)
    console = Console(stderr=True, highlight=False)
    console.width = max(console.width, _LEAST_WIDTH)  # in a log, it would be 80
    peers: Path = args.peers_dir.expanduser().absolute()
    changes = parse_changes(args.set, args.engine or engines.NAMES)
    if args.install:
        install.install(peers, list(install.PEERS))
    place = engines.Place(peers=peers, num_threads=len(os.sched_getaffinity(0)))
    needs_engines = any(_is_wanted(args, name) for name in WORKLOADS)
    groups = {
        model: [
            [
                engines.make_engine(name, model, place, changes.get(name, {}))
                for name in args.engine or engines.DEFAULTS[model]
                if needs_engines and name.partition("-")[2] in forms
            ]
            for forms in engines.GROUPS.values()
        ]
        for model in args.model or engines.MODELS[:1]
    }
    for model in groups:  # now, not after hours
        for group in groups[model]:
            check_memory(group, _config(peers, model), available_bytes())
    limits = measure_limits("bfloat16", choose_backend())
    results = []
    for model in groups:
        results.append(_measure(args, model, place, groups[model], console))
        # Again and again: others may make the machine look slower than it is for a while.
        limits = best_limits(limits, measure_limits("bfloat16", choose_backend()))

    figures: dict[str, Any] = {"limits": asdict(limits), "changes": changes}
    for result in results:
        figures[result.model] = _show(result, limits, console)
    console.print(limits_line(limits))
    line = io.StringIO()
    with contextlib.redirect_stdout(line):
        report("peers", figures)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(line.getvalue(), encoding="utf-8")
    print(line.getvalue(), end="")


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the run, and the engines with it; a second signal must not leave some of them behind."""
    for ignored in _STOPPING:
        signal.signal(ignored, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _config(peers: Path, model: str) -> dict[str, Any]:
    text = (peers / "models" / model / "config.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    return config


def _measure(
    args: argparse.Namespace,
    model: str,
    place: engines.Place,
    groups: Sequence[Sequence[Engine]],
    console: Console,
) -> _Measured:
    def on_progress(what: str) -> None:
        console.print(f"[dim]{model}: {what}[/]")

    logs = place.peers / "logs" / model
    config = _config(place.peers, model)
    plan = Plan(
        workloads=_workloads(args.workloads, config["vocab_size"], args.reps),
        names=[name for name in WORKLOADS if _is_wanted(args, name)],
        num_reps=args.reps,
        startup_timeout_s=args.startup_timeout_s,
        run_timeout_s=args.run_timeout_s,
    )
    outcomes = []
    for group in groups:
        outcomes += compare(group, plan, logs, on_progress)
    client = Client(
        program=place.peers / "venv_vllm/bin/vllm",
        tokenizer=place.peers / "models" / model,
        results=place.peers / "results" / model,
    )
    server_outcomes = compare_servers(
        [servers.make_server(name, model, place) for name in args.server if _is_wanted(args, "S")],
        client,
        args.reps,
        args.startup_timeout_s,
        logs,
        on_progress,
    )
    names = trainers.DEFAULTS[model] if args.trainer is None else args.trainer
    trainer_outcomes = compare_trainers(
        [trainers.make_trainer(name, model, place) for name in names if _is_wanted(args, "L")],
        make_steps(config["vocab_size"], 1 + args.reps * STEPS_PER_TURN),
        args.run_timeout_s,
        logs,
        on_progress,
    )
    return _Measured(
        model=model,
        config=config,
        outcomes=outcomes,
        server_outcomes=server_outcomes,
        trainer_outcomes=trainer_outcomes,
    )


def _is_wanted(args: argparse.Namespace, workload: str) -> bool:
    return args.workload is None or workload in args.workload


def _workloads(path: Path | None, vocab_size: int, num_reps: int) -> dict[str, Workload]:
    made = make_workloads(vocab_size, num_reps)
    return made if path is None else {**made, **load_workloads(path, num_reps)}


def _show(result: _Measured, limits: Limits, console: Console) -> dict[str, Any]:
    """Prints one model's tables. Returns its figures."""
    outcomes, server_outcomes = result.outcomes, result.server_outcomes
    # Adapters are trained beside frozen weights, which have no gradients of their own: two
    # operations forward and two back, for each weight and token.
    flops_per_token = 4 * sum(engines.num_params(result.config))
    training = (result.trainer_outcomes, flops_per_token, limits)
    costs = {
        outcome.engine.name: engines.cost(outcome.engine, result.config) for outcome in outcomes
    }
    verdicts = [
        *judge_ratios(result.model, outcomes),
        *judge_limits(result.model, outcomes, costs, limits),
        *judge_servers(server_outcomes),
        *judge_trainers(result.trainer_outcomes),
    ]
    console.print(f"[bold]{result.model}[/]")
    if outcomes:
        console.print(show.speeds_table(outcomes, costs, limits))
    if server_outcomes:
        console.print(show.servers_table(server_outcomes))
    if result.trainer_outcomes:
        console.print(show_training.trainers_table(*training))
    console.print(show.verdicts_table(verdicts))
    errors = {outcome.engine.name: outcome.error for outcome in outcomes}
    errors |= {f"server {outcome.server.name}": outcome.error for outcome in server_outcomes}
    errors |= {f"train {each.trainer.name}": each.error for each in result.trainer_outcomes}
    for name, error in errors.items():
        if error is not None:
            console.print(f"{name} failed: {error}", markup=False, style="red")
    return {
        **show.as_figures(outcomes, verdicts, costs, limits),
        "servers": show.servers_as_figures(server_outcomes),
        "trainers": show_training.trainers_as_figures(*training),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="peers",
        description="Measure flaxen beside other engines. docs/benchmarks.md explains.",
    )
    add = parser.add_argument
    add(
        "--model",
        action="append",
        choices=engines.MODELS,
        help="may be given twice (default: smollm2-135m)",
    )
    add(
        "--engine",
        nargs="+",
        choices=engines.NAMES,
        metavar="NAME",
        help=f"which to compare, of {', '.join(engines.NAMES)} (default: those with a target)",
    )
    add(
        "--workload",
        action="append",
        choices=_ALL_WORKLOADS,
        help="may be given several times (default: all)",
    )
    add("--workloads", type=Path, metavar="FILE", help="JSON with token ids, in place of ours")
    add(
        "--server",
        nargs="*",
        choices=servers.NAMES,
        default=["flaxen-bf16", "vllm-bf16", "vllm-f32"],
        metavar="NAME",
        help=f"for workload S, of {', '.join(servers.NAMES)}; none skips it",
    )
    add(
        "--trainer",
        nargs="*",
        choices=trainers.NAMES,
        metavar="NAME",
        help=f"for workload L, of {', '.join(trainers.NAMES)}; none skips it (default: those with "
        "a target)",
    )
    add("--reps", type=int, default=3, help="repetitions, each with fresh tokens (default: 3)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="ENGINE.ARGUMENT=VALUE",
        help="another value for an argument of an engine, as JSON",
    )
    add(
        "--peers-dir",
        type=Path,
        default=Path("~/.cache/flaxen-peers"),
        help="where they lie (default: ~/.cache/flaxen-peers)",
    )
    add(
        "--install",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="install the peers that are missing (default: yes)",
    )
    add(
        "--startup-timeout-s",
        type=float,
        default=1800.0,
        help="to load, and for a run of S (default: 1800)",
    )
    add(
        "--run-timeout-s",
        type=float,
        default=900.0,
        help="for one batch of requests (default: 900)",
    )
    add("--json", type=Path, metavar="FILE", help="also write the JSON line to this file")
    return parser


if __name__ == "__main__":
    main()
