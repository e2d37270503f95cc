"""The LoRA adapter of a command: --adapter, or MODEL itself.

Imports the weights only when they are needed, so that --help is fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from flaxen.hub.places import Places
    from flaxen.scheduling.config import LoraLimits


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """An adapter that a command uses for its whole run."""

    adapter: Path | None = option(
        None,
        metavar="DIR",
        help="Directory of a LoRA adapter, as flaxen train and PEFT write it, to compute with "
        "beside the model. MODEL may also be such a directory itself: its base model is then "
        "found by the name in it.",
        rich_help_panel=panels.MODEL,
    )

    def beside(self, model: str, places: Places) -> tuple[str, Path | None]:
        """The model to load, and the directory of the adapter beside it, if any.

        Args:
          model: MODEL, which may be an adapter's directory.
          places: where the base model is looked for.

        Raises:
          ValueError: the directory is no adapter's, two adapters are named, or the base of one is
              not found.
        """
        own = adapter_as_model(model)
        if self.adapter is None:
            return (model, None) if own is None else (base_of(own, places), own)
        from flaxen.hub.run_directory import adapter_in

        directory = adapter_in(Path(os.path.expanduser(self.adapter)))
        if own is not None:
            raise ValueError(
                f"{model} is an adapter itself, and --adapter names another: give the base model "
                "as MODEL, and one adapter"
            )
        check_directory(f"--adapter {self.adapter}", directory)
        return model, directory


def adapter_as_model(model: str) -> Path | None:
    """The directory of an adapter that MODEL names, or of the run that trained one; else None."""
    from flaxen.hub.run_directory import adapter_in
    from flaxen.weights.adapters.base import is_adapter

    path = adapter_in(Path(os.path.expanduser(model)))
    return path if is_adapter(path) else None


def base_of(directory: Path, places: Places) -> str:
    """The base model of an adapter, for MODEL.

    Raises:
      ValueError: it is not found.
    """
    from flaxen.weights.adapters.base import find_base

    return find_base(directory, places)


def check_directory(option: str, directory: Path) -> None:
    """Refuses a directory that is no adapter's.

    Args:
      option: what the user gave, for the message.
      directory: the directory that it names.

    Raises:
      ValueError: it does not exist, or has no adapter_config.json.
    """
    if (directory / ADAPTER_CONFIG).is_file():
        return
    wrong = (
        f"{directory} has no {ADAPTER_CONFIG}"
        if directory.is_dir()
        else f"no directory {directory}"
    )
    if found := sorted(directory.glob(f"*/{ADAPTER_CONFIG}")):  # the directory of a training run
        raise ValueError(f"{option}: {wrong}. Did you mean {found[0].parent}?")
    raise ValueError(
        f"{option}: {wrong}. Name the directory of a PEFT adapter, which holds {ADAPTER_CONFIG} "
        f"and {ADAPTER_WEIGHTS}"
    )


def limits_for(directory: Path | None) -> LoraLimits | None:
    """The limits of an engine that serves one adapter; None without one."""
    from flaxen.scheduling.config import LoraLimits
    from flaxen.weights.adapters.base import highest_rank

    if directory is None:
        return None
    return LoraLimits(max_loras=1, max_lora_rank=highest_rank(directory))
