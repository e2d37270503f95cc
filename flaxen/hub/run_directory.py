"""The results in the output directory of a run of `flaxen train`.

Deliberately does not know how they are written. The settings of a run are in its `config.json`, so
that its checkpoints tell it from a model.
"""

from __future__ import annotations

from pathlib import Path

from flaxen.hub.weight_files import ADAPTER_CONFIG

CHECKPOINTS, MODEL, ADAPTER = "checkpoints", "model", "adapter"


def model_in(path: Path) -> Path:
    """The model of a run's output directory; any other path is returned as it is."""
    is_run = (path / CHECKPOINTS).is_dir() and (path / MODEL).is_dir()
    return path / MODEL if is_run else path


def adapter_in(path: Path) -> Path:
    """The same for the adapter of a run that trained one."""
    is_run = (path / CHECKPOINTS).is_dir() and (path / ADAPTER / ADAPTER_CONFIG).is_file()
    return path / ADAPTER if is_run else path
