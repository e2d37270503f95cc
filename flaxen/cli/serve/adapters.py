"""The options of adapters: what they come to, and the adapters that are loaded at the start.

Deliberately imports neither the engine nor the server before it must: help waits for neither.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.weights.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from flaxen.engine.config import LoraLimits
    from flaxen.models.model import Model
    from flaxen.protocol import EngineClient
    from flaxen.server.adapter_files import AdapterFiles


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The options as they were given.

    Raises:
      ValueError: one that has no effect without another, or a module that is not NAME=DIR or whose
        directory does not exist.
    """

    enable: bool
    max_loras: int
    max_lora_rank: int
    max_cpu_loras: int | None
    modules: tuple[str, ...]
    allow_updating: bool
    directory: Path | None

    def __post_init__(self) -> None:
        for name, given in (
            ("--lora-modules", self.modules),
            ("--allow-runtime-lora-updating", self.allow_updating),
            ("--lora-dir", self.directory),
            ("--max-cpu-loras", self.max_cpu_loras),
        ):
            if given and not self.enable:
                raise ValueError(f"{name} needs --enable-lora")
        if self.allow_updating != (self.directory is not None):
            raise ValueError(
                "--allow-runtime-lora-updating and --lora-dir need each other: the one lets "
                "clients load adapters, the other says from where"
            )
        for name, path in self.named_paths():  # now, not after the weights are read
            if not (path / ADAPTER_CONFIG).is_file():
                is_there = path.is_dir()
                raise ValueError(
                    f"--lora-modules {name}={path}: "
                    + (f"{path} has no {ADAPTER_CONFIG}" if is_there else f"no directory {path}")
                    + f". Name the directory of a PEFT adapter, which holds {ADAPTER_CONFIG} and "
                    f"{ADAPTER_WEIGHTS}"
                )

    def named_paths(self) -> list[tuple[str, Path]]:
        """The adapters of --lora-modules."""
        parsed = []
        for module in self.modules:
            name, _, path = module.partition("=")
            if not name or not path:
                raise ValueError(f"--lora-modules must be NAME=DIR, got {module!r}")
            parsed.append((name, Path(path)))
        return parsed

    def limits(self) -> LoraLimits | None:
        """What the engine is built with."""
        from flaxen.engine.config import LoraLimits

        if not self.enable:
            return None
        return LoraLimits(
            max_loras=self.max_loras,
            max_lora_rank=self.max_lora_rank,
            max_cpu_loras=self.max_cpu_loras,
        )

    def load_modules(self, engine: EngineClient, model: Model, base_names: tuple[str, ...]) -> None:
        """Loads the adapters of --lora-modules.

        Raises:
          ValueError: one can't be read or served, or has the base model's name.
        """
        from flaxen.weights.adapters.peft import load_adapter

        for name, path in self.named_paths():
            if name in base_names:
                raise ValueError(f"--lora-modules: {name!r} is the base model's name")
            adapter = load_adapter(path, model, max_rank=self.max_lora_rank)
            engine.load_adapter(name, adapter)

    def files(self, model: Model) -> AdapterFiles | None:
        """What clients may load; None if they may not."""
        from flaxen.server.adapter_files import AdapterFiles
        from flaxen.weights.adapters.peft import load_adapter

        if self.directory is None:
            return None
        read = functools.partial(load_adapter, model=model, max_rank=self.max_lora_rank)
        return AdapterFiles(directory=self.directory, read=read)
