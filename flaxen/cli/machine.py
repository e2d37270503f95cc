"""The options for the use of the machine, which all computing commands have.

Imports JAX only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flaxen.cli.cpu import Cpu, set_up_cpu
from flaxen.cli.groups import option
from flaxen.cli.panels import ENGINE, MODEL
from flaxen.hub.places import Places

_engine_option = partial(option, rich_help_panel=ENGINE)

Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        help="Never download: take only what is on this machine.",
        rich_help_panel=MODEL,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelsDirOptions:
    """The directory of models."""

    models_dir: Path | None = option(
        None,
        metavar="DIR",
        envvar="FLAXEN_MODELS_DIR",
        file_okay=False,
        help="Directory of models: MODEL is looked for there, as NAME/, NAME.gguf or ORG/NAME, "
        "and downloads go there.",
        show_default="Hugging Face's cache",
        rich_help_panel=MODEL,
    )


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """The resources of the machine that a command may use."""

    device: str = _engine_option(
        "auto",
        help="Where to compute: cpu, cuda, rocm, tpu, or auto, which is an accelerator that "
        "JAX can use, else the CPU.",
    )
    threads: int | None = _engine_option(
        None,
        min=1,
        help="Threads that compute on the CPU.",
        show_default="one for each CPU that the process may use",
    )
    compile_cache: Path | None = _engine_option(
        None,
        metavar="DIR",
        envvar="FLAXEN_CACHE",
        file_okay=False,
        help="Where compiled programs are kept, so that the next start is quick.",
        show_default="~/.cache/flaxen",
    )
    offline: Offline = False

    def set_up(self, num_devices: int = 1, num_local_devices: int | None = None) -> Cpu:
        """Applies the options to the whole process, before JAX computes anything.

        Args:
          num_devices: those of the mesh.
          num_local_devices: this process's own; None is all of them.

        Raises:
          ValueError: as in `set_up_cpu`.
        """
        from flaxen.compile_cache import choose_compile_cache

        choose_compile_cache(self.compile_cache, os.environ)
        return set_up_cpu(
            self.threads,
            self.device,
            num_devices=num_devices,
            num_local_devices=num_local_devices,
        )


def find_places(models: ModelsDirOptions, machine: MachineOptions) -> Places:
    """The places in which a command looks for models."""
    return Places(models_dir=models.models_dir, offline=machine.offline)
