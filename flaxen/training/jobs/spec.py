"""A fine-tuning job as data: model, files, hyperparameters, callbacks. Contains no logic."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flaxen.data.validate import JobMethod
from flaxen.models.adapters import LoraConfig
from flaxen.models.model import Model, Params
from flaxen.text.tokenizer import Tokenizer
from flaxen.training.jobs.plan import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that a job adapts: the served arrays themselves, not copies."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    name: str
    max_length: int  # the most tokens of a training sequence


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """The data and settings of a job."""

    method: JobMethod
    training_file: Path
    validation_file: Path | None
    hyperparameters: Hyperparameters
    lora: LoraConfig
    seed: int
    directory: Path  # the job's own: its state and its adapters
    save_every_s: float = 60.0  # seconds between saved states


@dataclass(frozen=True, kw_only=True)
class JobCallbacks:
    """Callbacks of a running job; all are called on its thread."""

    # gets the chosen hyperparameters, by their names in OpenAI's API
    on_start: Callable[[Mapping[str, float]], None]
    # gets the step, num_steps, metrics by OpenAI's names, and the tokens trained so far
    on_step: Callable[[int, int, Mapping[str, float], int], None]
    # gets the step, metrics, and whether it is the last, once the adapter's directory is complete
    on_checkpoint: Callable[[int, Mapping[str, float], bool], None]
    should_stop: Callable[[], bool]  # asked before each record and after each microbatch
    rest: Callable[[float], None]  # called after each microbatch, with its duration
    # Free bytes of a path's disk.
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free


def adapter_directory(directory: Path, step: int) -> Path:
    """The directory of a checkpoint's adapter, in PEFT's format, in a job's directory."""
    return directory / f"adapter-{step}"


def state_directory(directory: Path) -> Path:
    """The directory of the state from which a job resumes, in the job's directory."""
    return directory / "state"
