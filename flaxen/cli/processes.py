"""The option group of several processes, and what those after the first do.

Imports JAX only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.cli.interrupt import ignore_signals
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs
    from flaxen.scheduling.config import LoraLimits

_option = partial(option, rich_help_panel=panels.ENGINE)
_AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The processes that a mesh spans. Names are those of jax.distributed.initialize."""

    coordinator_address: str | None = _option(
        None,
        metavar="HOST:PORT",
        help="Divide the mesh over several processes: where process 0 listens for the others. "
        "Start the same command on each, with its own --process-id; auto asks the TPU pod, "
        "SLURM, Open MPI or Kubernetes. Use it in a trusted network only.",
        show_default="one process",
    )
    num_processes: int | None = _option(
        None, min=1, help="The number of all processes.", show_default="1"
    )
    process_id: int | None = _option(
        None, min=0, help="Which of them this is: 0 plans, and has the results."
    )

    def refuse(self, option: str, reason: str) -> None:
        """Raises ValueError if there may be other processes, beside which an option can't be."""
        if self.coordinator_address is not None:
            raise ValueError(f"{option} and --coordinator-address don't go together: {reason}")

    def check(self) -> None:
        """Checks the options, before anything is started.

        Raises:
          ValueError: one is missing, or does not go with another.
        """
        own = self.num_processes, self.process_id
        if self.coordinator_address is None and own != (None, None):
            raise ValueError(
                "--num-processes and --process-id need --coordinator-address HOST:PORT, where "
                "process 0 listens for the others"
            )
        if self.coordinator_address == _AUTO and own != (None, None):
            raise ValueError(
                "--coordinator-address auto finds out --num-processes and --process-id: leave them "
                "out, or give HOST:PORT"
            )
        if self.coordinator_address in (None, _AUTO):
            return
        host, _, port = self.coordinator_address.rpartition(":")
        if not host or not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(
                f"--coordinator-address {self.coordinator_address!r} is not HOST:PORT: give where "
                "process 0 listens for the others, as 10.0.0.1:9876"
            )
        if self.num_processes is None or self.process_id is None:
            raise ValueError(
                "--coordinator-address needs --num-processes N, and --process-id from 0 to N - 1"
            )
        if self.process_id >= self.num_processes:
            raise ValueError(
                f"--process-id {self.process_id} is not one of {self.num_processes} processes: "
                f"give 0 to {self.num_processes - 1}"
            )

    def num_local_devices(self, num_devices: int) -> int:
        """The number of a mesh's devices that this process has, where they are virtual.

        Raises:
          ValueError: the devices can't be divided among the processes.
        """
        if self.coordinator_address == _AUTO:
            return 1
        count = self.num_processes or 1
        if num_devices % count:
            raise ValueError(
                f"a mesh of {num_devices} devices can't be divided over {count} processes: each "
                "needs as many as the others"
            )
        return num_devices // count

    def start(self) -> bool:
        """Joins the other processes, before JAX computes anything. Returns whether this process is
        to follow process 0.

        Raises:
          ValueError: as in `check`, or the others can't be found.
        """
        self.check()
        if self.coordinator_address is None:
            return False
        from flaxen.sharding.processes import start_processes, this_process

        _keep_output_apart()
        start_processes(self.coordinator_address, self.num_processes, self.process_id)
        # With `auto` JAX knows, and its devices may be started: they are a pod's.
        index = this_process().index if self.process_id is None else self.process_id
        return index > 0


def _keep_output_apart() -> None:
    """Leaves the standard output to Python: Gloo prints there which processes it has connected, in
    the middle of the results. What native code prints goes to the standard error from now on.
    """
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdout = os.fdopen(own, "w", buffering=1, encoding=encoding, errors=errors)


def follow(args: EngineArgs, lora: LoraLimits | None) -> None:
    """Computes for process 0 until that one ends. Signals are for it: they end all processes."""
    from flaxen.build import follow_process_0
    from flaxen.sharding.processes import this_process

    with show_progress(Console(stderr=True)) as on_progress:
        processes = this_process()
        print(
            f"process {processes.index} of {processes.count}: computing for process 0, until that "
            "one ends",
            file=sys.stderr,
        )
        ignore_signals()
        follow_process_0(args, on_progress, lora=lora)
