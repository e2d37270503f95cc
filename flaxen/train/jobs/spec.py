"""What a fine-tuning job is asked to do, on what, and who is told. Deliberately does nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flaxen.models.adapters import LoraConfig
from flaxen.models.model import Model, Params
from flaxen.text.tokenizer import Tokenizer
from flaxen.train.jobs.plan import Hyperparameters, JobMethod


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that a job adapts: the very arrays that are served."""

    model: Model
    params: Params
    tokenizer: Tokenizer
    name: str
    max_length: int  # tokens of a training sequence


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a job trains on, and how."""

    method: JobMethod
    training_file: Path
    validation_file: Path | None
    hyperparameters: Hyperparameters
    lora: LoraConfig
    seed: int
    directory: Path  # the job's own: its state, and the adapters that it ends with
    save_every_s: float = 60.0  # seconds between two saved states


@dataclass(frozen=True, kw_only=True)
class JobCallbacks:
    """Who is told, and asked, while a job runs; all on its thread."""

    # the hyperparameters that were chosen, by their names in OpenAI's API
    on_start: Callable[[Mapping[str, float]], None]
    # step, num_steps, metrics by OpenAI's names, tokens trained on since the job's beginning
    on_step: Callable[[int, int, Mapping[str, float], int], None]
    # step, metrics, whether it is the last: the adapter's directory is complete
    on_checkpoint: Callable[[int, Mapping[str, float], bool], None]
    should_stop: Callable[[], bool]  # asked before each record and after each microbatch
    rest: Callable[[float], None]  # after each microbatch, with the seconds that it took
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free  # of its disk


def adapter_directory(directory: Path, step: int) -> Path:
    """Where, in a job's directory, the adapter of a checkpoint is, in PEFT's format."""
    return directory / f"adapter-{step}"


def state_directory(directory: Path) -> Path:
    """Where, in a job's directory, the state is that a stopped job goes on with."""
    return directory / "state"
