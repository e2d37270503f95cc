"""The interface of the trainer that runs a server's jobs. Contains no logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One job for the trainer, which chooses the hyperparameters that are None."""

    id: str
    method: str  # "supervised" or "dpo"
    training_file: Path
    validation_file: Path | None
    n_epochs: int | None
    batch_size: int | None  # records
    learning_rate_multiplier: float | None
    beta: float | None
    lora_rank: int
    lora_alpha: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class FineTunedModel:
    """The model that a job made at one of its steps."""

    name: str
    job_id: str
    step: int
    rank: int
    created: int  # seconds since 1970


class JobProgress(Protocol):
    """Callbacks of a trainer while it runs a job."""

    def started(self, hyperparameters: Mapping[str, float]) -> None:
        """Gets the chosen hyperparameters."""

    def stepped(
        self, step: int, num_steps: int, metrics: Mapping[str, float], num_tokens: int
    ) -> None:
        """Gets a step's metrics, with OpenAI's names, and the number of tokens trained so far."""

    def checkpointed(self, step: int, metrics: Mapping[str, float], is_last: bool) -> None:
        """Called when a checkpoint is complete and can be served."""

    def should_stop(self) -> bool:
        """Whether to stop soon, after saving a state from which to resume."""


class Trainer(Protocol):
    """Trains adapters, stores their checkpoints, and serves them."""

    def validate(
        self, path: Path, method: str, should_stop: Callable[[], bool]
    ) -> Sequence[tuple[int, str]] | None:
        """Returns a file's errors as (line from 1, reason); None if it was stopped first."""

    def train(self, job: TrainingJob, progress: JobProgress) -> bool:
        """Trains a job, or resumes it from a saved state. Returns whether it finished.

        Raises:
          ValueError: the job can't be run; the message is for the user.
        """

    def serve(self, model: FineTunedModel) -> None:
        """Serves a model under its name; its weights are read when they are first needed.

        Raises:
          ValueError: its files are missing, or the server's options do not allow serving it.
        """

    def unload(self, name: str) -> None:
        """Unloads a served model's weights from memory."""

    def remove(self, model: FineTunedModel) -> None:
        """Stops serving a model, if it is served, and removes its files."""

    def remove_state(self, job_id: str) -> None:
        """Removes the state of a job that has ended, which is only needed to resume it."""
