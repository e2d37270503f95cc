"""Opens a training run: its model, its data, and the checkpoint from which it resumes.

Deliberately does not know: argv, terminals, training itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from flaxen.build import OnProgress
from flaxen.checkpoints.reading import read_extra, restore, steps_in
from flaxen.data.config import DataConfig
from flaxen.data.iterate import DataIterator
from flaxen.data.lines import RecordSource
from flaxen.data.opening import open_data
from flaxen.data.token_store import TokenStore
from flaxen.definitions.definition import Definition
from flaxen.hub.places import Places
from flaxen.hub.run_directory import ADAPTER, CHECKPOINTS, MODEL
from flaxen.models.model import Model, Params
from flaxen.runs.model import Subject, dtype_of, load, open_subject, with_targets
from flaxen.runs.plan import count_steps, describe_plan
from flaxen.runs.resume import check_output_dir, run_fingerprint
from flaxen.runs.stages import from_saved, to_saved
from flaxen.sharding.shape import ONE_DEVICE, MeshShape
from flaxen.text.given_template import read_template
from flaxen.training.config import TrainConfig
from flaxen.training.dpo import dpo
from flaxen.training.fingerprint import Fingerprint, check_unchanged
from flaxen.training.full import full
from flaxen.training.layout import check_sizes, num_batch_parts
from flaxen.training.lora import lora
from flaxen.training.loss import next_token
from flaxen.training.optimizer import make_optimizer, make_schedule
from flaxen.training.router_losses import RouterLosses
from flaxen.training.state import TrainState
from flaxen.training.step import TrainStep, make_step, start


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
    plan: str  # what the data are, and how many steps they make, in words
    fingerprint: Fingerprint  # what the state depends on

    def results_in(self, directory: Path) -> list[Path]:
        """The paths of the results in a directory: one for each adapter, or one for the model."""
        if self.config.method == "full":
            return [directory / MODEL]
        count = self.config.lora.num_adapters
        if count == 1:
            return [directory / ADAPTER]
        return [directory / f"{ADAPTER}-{index}" for index in range(count)]


def open_run(
    config: TrainConfig,
    definition: Definition | str | None,
    *,
    sources: Sequence[RecordSource] | None = None,
    backend: str,
    mesh: MeshShape = ONE_DEVICE,
    resume: bool,
    places: Places,
    on_progress: OnProgress,
) -> OpenedRun:
    """Opens model and data, and restores the last checkpoint. Raises errors before computing.

    Args:
      config: the run.
      definition: as in `open_subject`.
      sources: the records, if they are not in config.data.files; one source for each of these.
      backend: what computes, as EngineArgs.backend.
      mesh: the devices that the run is divided over; it may differ when a run is resumed.
      resume: resume from the last checkpoint, or start if there is none.
      places: where config.model is looked for.
      on_progress: called with (stage, done, total).

    Raises:
      ValueError: the model does not exist, data is bad, or the output directory has another run,
          the same run with changed settings, or foreign files.
      OSError: a file can't be read or written.
    """
    directory = config.output_dir
    saved = None if directory is None else _find_saved(directory, resume)
    config = _with_template(config)
    subject = open_subject(config, definition, backend=backend, mesh=mesh, places=places)
    _check_length(config, subject)
    batches = _open_batches(config, subject, sources, mesh)
    config = _with_sizes(with_targets(config, subject.model), batches.config)
    _check_sizes(config, mesh)
    dtype = dtype_of(config, subject)
    # Digests of weights take a while, and nothing can be resumed without a directory.
    fingerprint = {} if directory is None else run_fingerprint(config, subject, dtype, batches)
    place = None
    if saved is not None:
        place = _place(saved, fingerprint)
        batches.restore(place)
    num_made = 0 if saved is None else saved.step
    left = batches.remaining()
    num_steps = config.num_steps or num_made + (0 if left is None else left.num_batches)
    num_steps = max(num_steps, num_made)
    plan = describe_plan(config, batches.report(), left, num_steps)
    step = _make_step(config, subject.model, dtype, num_steps, plan)
    loaded = load(config, subject, dtype, on_progress)
    state = start(step, loaded.masters, config.seed, loaded.collections)
    if saved is not None:
        template = to_saved(config, subject.model, state)
        restored = restore(checkpoints_in(saved.directory), template, saved.step).tree
        state = from_saved(config, subject.model, restored)
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
        plan=plan,
        fingerprint=fingerprint,
    )


class _Saved(NamedTuple):
    """The last saved state of a run."""

    directory: Path  # the run's output directory
    step: int


def checkpoints_in(output_dir: Path) -> Path:
    """The directory of a run's checkpoints."""
    return output_dir / CHECKPOINTS


def _find_saved(output_dir: Path, resume: bool) -> _Saved | None:
    steps = steps_in(checkpoints_in(output_dir))
    if not steps:
        check_output_dir(output_dir)
        return None
    if not resume:
        raise ValueError(
            f"{output_dir} holds a run of {count_steps(steps[-1])}: give --resume to go on "
            f"(in Python resume=True), or another output_dir, such as {_free_name(output_dir)}"
        )
    return _Saved(output_dir, steps[-1])


def _free_name(directory: Path) -> Path:
    """A name like a directory's that is not in use."""
    names = (directory.with_name(f"{directory.name}-{number}") for number in itertools.count(2))
    return next(name for name in names if not name.exists())


def _with_template(config: TrainConfig) -> TrainConfig:
    """Replaces the name of a file with a chat template by its contents now, for the whole run."""
    if (given := config.data.chat_template) is None:
        return config
    return replace(config, data=replace(config.data, chat_template=read_template(given)))


def _check_length(config: TrainConfig, subject: Subject) -> None:
    length = config.data.sequence_length
    if length is not None and length > subject.model.max_position:
        raise ValueError(
            f"data.sequence_length is {length}, and the model was made for "
            f"{subject.model.max_position} tokens: lower it"
        )


def _open_batches(
    config: TrainConfig, subject: Subject, sources: Sequence[RecordSource] | None, mesh: MeshShape
) -> DataIterator[Any]:
    data = config.data
    if config.num_steps is not None:  # the data is read as often as needed
        data = replace(data, epochs=None)
    return open_data(
        data,
        subject.tokenizer,
        vocab_size=subject.model.vocab_size,
        max_length=subject.model.max_position,
        multiple=config.num_microbatches * num_batch_parts(mesh),
        sources=sources,
        # The system's temporary directory may be in memory.
        store=TokenStore(directory=config.output_dir),
        pairs=config.method == "dpo",
    )


def _with_sizes(config: TrainConfig, chosen: DataConfig) -> TrainConfig:
    """The configuration with the sizes of batches that were chosen by the data."""
    data = replace(
        config.data, batch_size=chosen.batch_size, sequence_length=chosen.sequence_length
    )
    return replace(config, data=data)


def _check_sizes(config: TrainConfig, mesh: MeshShape) -> None:
    """Refuses batches that the mesh can't divide."""
    size = config.data.batch_size
    assert size is not None
    check_sizes(
        mesh,
        num_rows=size // config.num_microbatches,
        sequence_length=config.data.sequence_length,
    )


def _place(saved: _Saved, fingerprint: Fingerprint) -> Any:
    """The position in the data of a saved run.

    Raises:
      ValueError: it is another run.
    """
    extra = read_extra(checkpoints_in(saved.directory), saved.step)
    check_unchanged(
        extra.get("run"),
        fingerprint,
        what=f"{saved.directory} holds a run of {count_steps(saved.step)}",
        anew="give another output_dir to begin anew",
    )
    return extra["data"]


def _make_step(
    config: TrainConfig, model: Model, dtype: jnp.dtype, num_steps: int, plan: str
) -> TrainStep:
    optimizer = config.optimizer
    router = RouterLosses(balance=optimizer.router_balance_loss, z=optimizer.router_z_loss)
    if config.method == "dpo":
        objective = dpo(
            model,
            beta=config.dpo.beta,
            label_smoothing=config.dpo.label_smoothing,
            remat=config.remat,
        )
    else:
        objective = next_token(model, remat=config.remat, router=router)
    if config.method == "full":
        trainable = full(model, dtype=dtype)
    else:
        trainable = lora(
            config.lora.to_lora(),
            num_adapters=config.lora.num_adapters,
            dropout=config.lora.dropout,
            model=model,
        )
    one_rate = (config.optimizer.learning_rate,) * trainable.num_groups
    rates = config.lora.learning_rates or one_rate
    try:
        schedule = make_schedule(config.schedule, num_steps)
    except ValueError as error:
        raise ValueError(f"{error}. {plan}") from None
    return make_step(trainable, objective, make_optimizer(config.optimizer), schedule, rates)
