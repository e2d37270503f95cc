"""`flaxen route diff`: what another configuration decides differently, by a log of requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxen.cli.route.asked import load


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The configuration of the log.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The other configuration.")],
    replay: Annotated[
        Path,
        typer.Option(
            metavar="LOG", help="The requests: a router's log in SQLite, or the same in JSON lines."
        ),
    ],
) -> None:
    """Compare what two configurations decide for the requests of a log.

    What models found is taken from the log, as long as both files have the same rule; of a request
    whose body was redacted, all signals are. A request that depends on a signal that is not there
    is counted apart. Models are compared without their load and latency. Exits with 1 if something
    is decided differently.
    """
    from rich.console import Console
    from rich.table import Table

    from flaxen.cli.route.outcomes import Outcomes
    from flaxen.cli.route.replaying import told
    from flaxen.router.replay_log import read_log

    before, after = Outcomes(load(old)), Outcomes(load(new))
    changes: dict[tuple[str, str], list[str]] = {}
    num_requests = num_open = 0
    for logged in read_log(replay):
        num_requests += 1
        one, other = told(before, before, logged), told(after, before, logged)
        if one is None or other is None:
            num_open += 1
        elif one != other:
            changes.setdefault((one, other), []).append(logged.id)
    if not num_requests:
        raise ValueError(f"{replay} has no requests: there is nothing to compare")
    console = Console(highlight=False)
    num_changed = sum(map(len, changes.values()))
    if changes:
        table = Table("requests", str(old), str(new), "for example")
        for (one, other), ids in sorted(changes.items(), key=lambda each: -len(each[1])):
            table.add_row(str(len(ids)), one, other, ids[0])
        console.print(table, markup=False)
    print(
        f"{num_changed} of {num_requests} requests are decided differently; {num_open} can't be "
        "compared, because a signal of a model is not in the log, or a body that a rule which "
        "changed must read: to log bodies, set capture_request_body: true in the decisions' plugin "
        "router_replay"
    )
    if changes:
        raise SystemExit(1)
