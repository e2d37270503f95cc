"""The adapters that are served beside a model. Imports the weights only when they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flaxen.models.model import Model
    from flaxen.protocol import EngineClient
    from flaxen.scheduling.config import LoraLimits
    from flaxen.server.adapter_files import AdapterFiles


@dataclass(frozen=True, kw_only=True)
class ServedAdapters:
    """The adapters of one model: those of the start, and where clients may load others from."""

    limits: LoraLimits | None = None  # None: no adapters are served
    at_start: tuple[tuple[str, Path], ...] = ()  # names and directories
    directory: Path | None = None  # below which clients may load adapters; None: they may not

    def load(self, engine: EngineClient, model: Model, base_names: tuple[str, ...]) -> None:
        """Loads the adapters of the start.

        Raises:
          ValueError: an adapter can't be read or served, or has the base model's name.
        """
        from flaxen.weights.adapters.peft import load_adapter

        for name, path in self.at_start:
            if name in base_names:
                raise ValueError(
                    f"the adapter {path} can't be called {name!r}, which is its base model's name: "
                    "choose another by --lora-modules NAME=DIR, or by --served-model-name where "
                    "MODEL is the adapter"
                )
            engine.load_adapter(name, load_adapter(path, model, max_rank=self._max_rank))

    def files(self, model: Model) -> AdapterFiles | None:
        """The adapters that clients may load; None if they may not."""
        from flaxen.server.adapter_files import AdapterFiles
        from flaxen.weights.adapters.peft import load_adapter

        if self.directory is None:
            return None
        read = partial(load_adapter, model=model, max_rank=self._max_rank)
        return AdapterFiles(directory=self.directory, read=read)

    @property
    def _max_rank(self) -> int:
        assert self.limits is not None, "adapters are served only by an engine with slots for them"
        return self.limits.max_lora_rank
