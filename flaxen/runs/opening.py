"""Opens a training run: its model, its data, and the checkpoint from which it resumes.

Deliberately does not know: argv, terminals, training itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxen.build import OnProgress
from flaxen.checkpoints.reading import read_extra, restore, steps_in
from flaxen.data.iterate import DataIterator, open_data, open_pairs
from flaxen.data.token_store import TokenStore
from flaxen.models.model import Model, Params
from flaxen.runs.model import Subject, dtype_of, load, open_subject, with_targets
from flaxen.runs.resume import check_output_dir, run_fingerprint
from flaxen.text.given_template import read_template
from flaxen.training.config import TrainConfig
from flaxen.training.dpo import dpo
from flaxen.training.fingerprint import Fingerprint, check_unchanged
from flaxen.training.full import full
from flaxen.training.lora import lora
from flaxen.training.loss import next_token
from flaxen.training.optimizer import make_optimizer, make_schedule
from flaxen.training.state import TrainState
from flaxen.training.step import TrainStep, make_step, start
from flaxen.weights.definition import Definition


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """The parts of a run, opened and checked."""

    config: TrainConfig
    subject: Subject  # the model
    dtype: jnp.dtype  # of compute
    step: TrainStep
    state: TrainState  # the initial or restored state
    frozen: Params  # None if everything is trained
    batches: DataIterator[Any]
    num_steps: int  # in total, at least the steps already done
    fingerprint: Fingerprint  # what the state depends on

    @property
    def results(self) -> list[Path]:
        """The directories of the results."""
        directory = self.config.output_dir
        if self.config.method == "full":
            return [directory / "model"]
        count = self.config.lora.num_adapters
        if count == 1:
            return [directory / "adapter"]
        return [directory / f"adapter-{index}" for index in range(count)]

    @property
    def checkpoints(self) -> Path:
        """The directory of the checkpoints."""
        return _checkpoints(self.config.output_dir)


def open_run(
    config: TrainConfig,
    definition: Definition | None,
    *,
    backend: str,
    resume: bool,
    offline: bool,
    on_progress: OnProgress,
) -> OpenedRun:
    """Opens model and data, and restores the last checkpoint. Raises errors before computing.

    Args:
      config: the run.
      definition: the model, if it is a definition; None finds config.model in files.
      backend: what computes, as EngineArgs.backend.
      resume: resume from the last checkpoint, or start if there is none.
      offline: never download.
      on_progress: called with (stage, done, total).

    Raises:
      ValueError: the model does not exist, data is bad, or the output directory has another run,
          the same run with changed settings, or foreign files.
      OSError: a file can't be read or written.
    """
    saved = steps_in(_checkpoints(config.output_dir))
    _check_start(config.output_dir, saved, resume)
    config = _with_template(config)
    subject = open_subject(config, definition, backend=backend, offline=offline)
    _check_length(config, subject)
    config = with_targets(config, subject.model)
    batches = _open_batches(config, subject)
    dtype = dtype_of(config, subject)
    fingerprint = run_fingerprint(config, subject, dtype, batches)
    num_made, place = 0, None
    if saved:
        num_made = saved[-1]
        place = _place(config.output_dir, num_made, fingerprint)
        batches.restore(place)
    num_steps = config.num_steps or num_made + (batches.num_batches() or 0)
    num_steps = max(num_steps, num_made)
    step = _make_step(config, subject.model, dtype, num_steps)
    loaded = load(config, subject, dtype, on_progress)
    state = start(step, loaded.masters, config.seed, loaded.collections)
    if saved:
        state = restore(_checkpoints(config.output_dir), state, num_made).tree
        state = state._replace(data_state=place)
    return OpenedRun(
        config=config,
        subject=subject,
        dtype=dtype,
        step=step,
        state=state,
        frozen=loaded.frozen,
        batches=batches,
        num_steps=num_steps,
        fingerprint=fingerprint,
    )


def _checkpoints(output_dir: Path) -> Path:
    return output_dir / "checkpoints"


def _check_start(output_dir: Path, saved: Sequence[int], resume: bool) -> None:
    if not saved:
        check_output_dir(output_dir)
    elif not resume:
        raise ValueError(
            f"{output_dir} holds a run of {count_steps(saved[-1])}: give --resume to go on, or "
            "another output_dir"
        )


def _with_template(config: TrainConfig) -> TrainConfig:
    """Replaces the name of a file with a chat template by its contents now, for the whole run."""
    if (given := config.data.chat_template) is None:
        return config
    return replace(config, data=replace(config.data, chat_template=read_template(given)))


def _check_length(config: TrainConfig, subject: Subject) -> None:
    if config.data.sequence_length > subject.model.max_position:
        raise ValueError(
            f"data.sequence_length is {config.data.sequence_length}, and the model was made for "
            f"{subject.model.max_position} tokens: lower it"
        )


def _open_batches(config: TrainConfig, subject: Subject) -> DataIterator[Any]:
    opener = open_pairs if config.method == "dpo" else open_data
    data = config.data
    if config.num_steps is not None:  # the data is read as often as needed
        data = replace(data, epochs=None)
    batches: DataIterator[Any] = opener(
        data,
        subject.tokenizer,
        vocab_size=subject.model.vocab_size,
        # The system's temporary directory may be in memory.
        store=TokenStore(directory=config.output_dir),
    )
    return batches


def _place(output_dir: Path, num_made: int, fingerprint: Fingerprint) -> Any:
    """The position in the data of a saved run.

    Raises:
      ValueError: it is another run.
    """
    extra = read_extra(_checkpoints(output_dir), num_made)
    check_unchanged(
        extra.get("run"),
        fingerprint,
        what=f"{output_dir} holds a run of {count_steps(num_made)}",
        anew="give another output_dir to begin anew",
    )
    return extra["data"]


def _make_step(config: TrainConfig, model: Model, dtype: jnp.dtype, num_steps: int) -> TrainStep:
    if config.method == "dpo":
        objective = dpo(
            model,
            beta=config.dpo.beta,
            label_smoothing=config.dpo.label_smoothing,
            remat=config.remat,
        )
    else:
        objective = next_token(model, remat=config.remat)
    if config.method == "full":
        trainable = full(model, dtype=dtype)
    else:
        trainable = lora(
            config.lora.to_lora(),
            num_adapters=config.lora.num_adapters,
            dropout=config.lora.dropout,
        )
    one_rate = (config.optimizer.learning_rate,) * trainable.num_groups
    rates = config.lora.learning_rates or one_rate
    schedule = make_schedule(config.schedule, num_steps)
    return make_step(trainable, objective, make_optimizer(config.optimizer), schedule, rates)


def count_steps(number: int) -> str:
    """A number of steps as text."""
    return f"{number} step{'' if number == 1 else 's'}"
