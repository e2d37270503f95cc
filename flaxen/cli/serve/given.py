"""What the user gave to `flaxen serve`, for one model and for several alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flaxen.cli.machine import MachineOptions
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.cli.serve.options import ServerOptions
from flaxen.hub.places import Places

if TYPE_CHECKING:
    from flaxen.engine_args import EngineArgs
    from flaxen.server.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class Given:
    """The option groups that both ways of serving read, and what was made of the others."""

    server: ServerOptions
    config: ServerConfig
    lora: LoraOptions
    fine_tuning: FineTuningOptions
    machine: MachineOptions
    places: Places
    make_args: Callable[..., EngineArgs]  # from MODEL, and fields that no option has
