"""The option group of adapters.

Imports the engine only when it is needed, so that --help is fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.cli.adapters import adapter_as_model, base_of, check_directory
from flaxen.cli.groups import option
from flaxen.cli.serve.options import ServerOptions
from flaxen.serving.adapters import ServedAdapters

if TYPE_CHECKING:
    from flaxen.hub.places import Places
    from flaxen.scheduling.config import LoraLimits

_lora_option = partial(option, rich_help_panel="LoRA adapters")


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The adapters that are served with a model."""

    enable_lora: bool = _lora_option(
        False, "--enable-lora", help="Serve LoRA adapters beside the model, mixed in one batch."
    )
    max_loras: int | None = _lora_option(
        None,
        min=1,
        help="Most adapters that run at once. The others wait in the host's memory for one of "
        "these slots, all of which have room for the largest rank and all targets.",
        show_default="8, or --max-cpu-loras if that is less",
    )
    max_lora_rank: int = _lora_option(16, min=1, help="Largest rank of an adapter.")
    max_cpu_loras: int | None = _lora_option(
        None,
        min=1,
        help="Most adapters in the host's memory; to load more is refused. Of fine-tuned "
        "models the least recently used makes room, and is read again when it is needed.",
        show_default="any number, and 16 fine-tuned models",
    )
    lora_modules: list[str] = _lora_option(
        [],
        metavar="NAME=DIR",
        help="Adapter in PEFT's format to load at the start; may be given several times.",
    )
    allow_runtime_lora_updating: bool = _lora_option(
        False,
        "--allow-runtime-lora-updating",
        help="Let clients load adapters from below --lora-dir, and unload any: "
        "/v1/load_lora_adapter, /v1/unload_lora_adapter.",
    )
    lora_dir: Path | None = _lora_option(
        None,
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Directory below which clients may load adapters from.",
        show_default="none",
    )

    def check(self) -> None:
        """Checks the options before the weights are read.

        Not checked at construction, because the group of fine-tuning may enable adapters.

        Raises:
          ValueError: an option has no effect without another, or a module is not NAME=DIR or its
            directory does not exist.
        """
        for name, given in (
            ("--lora-modules", self.lora_modules),
            ("--allow-runtime-lora-updating", self.allow_runtime_lora_updating),
            ("--lora-dir", self.lora_dir),
            ("--max-cpu-loras", self.max_cpu_loras),
        ):
            if given and not self.enable_lora:
                raise ValueError(f"{name} needs --enable-lora")
        if self.allow_runtime_lora_updating != (self.lora_dir is not None):
            raise ValueError(
                "--allow-runtime-lora-updating and --lora-dir need each other: the one lets "
                "clients load adapters, the other says from where"
            )
        for name, path in self.named_paths():
            check_directory(f"--lora-modules {name}={path}", path)

    def serving(self, name: str, directory: Path) -> LoraOptions:
        """The options with one more adapter, and the rank that it needs.

        Args:
          name: the name that clients call it by.
          directory: a PEFT adapter's.

        Raises:
          ValueError: its configuration can't be read.
        """
        from flaxen.weights.adapters.base import highest_rank

        return replace(
            self,
            enable_lora=True,
            lora_modules=[f"{name}={directory}", *self.lora_modules],
            max_lora_rank=max(self.max_lora_rank, highest_rank(directory)),
        )

    def named_paths(self) -> list[tuple[str, Path]]:
        """The adapters of --lora-modules."""
        parsed = []
        for module in self.lora_modules:
            name, _, path = module.partition("=")
            if not name or not path:
                raise ValueError(f"--lora-modules must be NAME=DIR, got {module!r}")
            parsed.append((name, Path(path)))
        return parsed

    def limits(self) -> LoraLimits | None:
        """The engine's limits of adapters."""
        from flaxen.scheduling.config import LoraLimits

        if not self.enable_lora:
            return None
        return LoraLimits(
            max_loras=self.max_loras or min(8, self.max_cpu_loras or 8),
            max_lora_rank=self.max_lora_rank,
            max_cpu_loras=self.max_cpu_loras,
        )

    def served(self) -> ServedAdapters:
        """The adapters of one model, as a server takes them."""
        return ServedAdapters(
            limits=self.limits(), at_start=tuple(self.named_paths()), directory=self.lora_dir
        )


def serve_adapter(
    model: str, server: ServerOptions, lora: LoraOptions, places: Places
) -> tuple[str, ServerOptions, LoraOptions]:
    """Serves an adapter that was given as MODEL beside its base model; a model stays as it is.

    Args:
      model: MODEL.
      server: its --served-model-name is the adapter's name; else that is the last part of MODEL.
      lora: the options of adapters.
      places: where the base model is looked for.

    Returns:
      The model to load, and the options of its server and adapters.

    Raises:
      ValueError: the base is not found, or the adapter was given several names.
    """
    directory = adapter_as_model(model)
    if directory is None:
        return model, server, lora
    names = server.served_model_names
    if len(names) > 1:
        raise ValueError(
            f"{model} is an adapter, which has one name here: give one --served-model-name, not "
            f"{len(names)}"
        )
    name = names[0] if names else Path(os.path.abspath(os.path.expanduser(model))).name
    base = base_of(directory, places)
    return base, replace(server, served_model_names=[]), lora.serving(name, directory)
