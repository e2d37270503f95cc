"""`flaxen doctor`: looks at the machine and the installation, and says what to fix.

Each probe is isolated: what is broken is what this command is for. Deliberately does not know what
the probes look at.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions
from flaxen.doctor.facts import Facts, Failure


def doctor(
    machine: MachineOptions,
    models: ModelsDirOptions,
    measure: bool = option(
        True,
        "--measure/--no-measure",
        help="Measure memory bandwidth and arithmetic, which takes two seconds.",
    ),
    port: int = option(8000, min=1, max=65535, help="Port that flaxen serve would listen on."),
    as_json: bool = option(False, "--json", help="Print one JSON document."),
) -> None:
    """Look at the machine and the installation, and say what to fix.

    Exits with 1 if something is broken, with 0 otherwise. Sends nothing anywhere.
    """
    from rich.console import Console

    from flaxen.doctor.advice import findings
    from flaxen.doctor.report import text

    with Console(stderr=True).status("looking at this machine"):  # shown on a terminal only
        facts = Facts(**gather(_probes(machine, models, measure, port)))
    found = findings(facts)
    if as_json:
        document = dataclasses.asdict(facts)
        typer.echo(json.dumps({**document, "findings": [vars(each) for each in found]}, indent=2))
    else:
        typer.echo(text(facts, found))
    if any(each.is_broken for each in found):
        raise typer.Exit(1)


def gather(probes: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Calls each probe; the error of one stands under `failures` and stops no other."""
    found: dict[str, Any] = {}
    failures: list[Failure] = []
    for name, probe in probes.items():
        try:
            found[name] = probe()
        except Exception as error:  # whatever is broken here is to be told, not to end the rest
            module = error.name if isinstance(error, ImportError) else None
            said = f"{type(error).__name__}: {error}"
            failures.append(Failure(probe=name, error=said, module=module))
    return {**found, "failures": tuple(failures)}


def _probes(
    options: MachineOptions, models: ModelsDirOptions, measure: bool, port: int
) -> dict[str, Callable[[], Any]]:
    from flaxen.cli.doctor import computing
    from flaxen.compile_cache import default_directory
    from flaxen.doctor import machine, places, software

    cache = options.compile_cache or default_directory(os.environ)
    num_allowed = len(os.sched_getaffinity(0))
    return {
        "machine": lambda: machine.probe_machine(Path("/"), num_allowed_cpus=num_allowed),
        "software": software.probe_software,
        "compute": lambda: computing.probe_compute(
            options.threads, options.device, measure=measure
        ),
        "places": lambda: places.probe_places(cache, models.models_dir),
        "models": lambda: places.probe_models(models.models_dir),
        "network": lambda: places.probe_network(port, offline=options.offline),
    }
