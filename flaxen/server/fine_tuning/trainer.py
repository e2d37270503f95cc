"""What a server asks of whoever trains its jobs. Deliberately does nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What a trainer is asked for. Hyperparameters that are None are the trainer's choice."""

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
    """What came of a job at one of its steps."""

    name: str
    job_id: str
    step: int
    rank: int
    created: int  # seconds since 1970


class JobProgress(Protocol):
    """What a trainer says while it trains, and asks."""

    def started(self, hyperparameters: Mapping[str, float]) -> None:
        """The hyperparameters that were chosen."""

    def stepped(
        self, step: int, num_steps: int, metrics: Mapping[str, float], num_tokens: int
    ) -> None:
        """A step was made, with OpenAI's names of metrics; `num_tokens` were trained on so far."""

    def checkpointed(self, step: int, metrics: Mapping[str, float], is_last: bool) -> None:
        """A checkpoint is complete, and can be served."""

    def should_stop(self) -> bool:
        """Whether to stop soon, with a state saved to go on from."""


class Trainer(Protocol):
    """Trains adapters, keeps their checkpoints, and has them served."""

    def validate(
        self, path: Path, method: str, should_stop: Callable[[], bool]
    ) -> Sequence[tuple[int, str]] | None:
        """Returns a file's faults as (line from 1, why); None if it was told to stop first."""

    def train(self, job: TrainingJob, progress: JobProgress) -> bool:
        """Trains, or goes on from what an earlier call saved. Returns whether it got to the end.

        Raises:
          ValueError: the job can't be done; the message is for the user.
        """

    def serve(self, model: FineTunedModel) -> None:
        """Has a model served under its name; its weights are read when they are first needed.

        Raises:
          ValueError: its files are not there, or it can't be served as the server was started.
        """

    def unload(self, name: str) -> None:
        """Lets go of a served model's weights in memory."""

    def remove(self, model: FineTunedModel) -> None:
        """Ends the serving of a model, if it is served, and removes its files."""

    def remove_state(self, job_id: str) -> None:
        """A job has ended: removes what is needed only to go on with it."""
