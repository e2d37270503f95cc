"""Runs one fine-tuning job: trains an adapter of weights that are being served.

The state is saved regularly, so that a job that was stopped or killed resumes and ends with exactly
the same adapter. Deliberately does not know: HTTP, databases, the engine.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

import jax

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.data.stopping import StoppedError
from flaxen.models.model import Model
from flaxen.training.dpo import dpo
from flaxen.training.jobs.data import JobData, open_job_data
from flaxen.training.jobs.fingerprint import job_fingerprint
from flaxen.training.jobs.pauses import Pauses
from flaxen.training.jobs.plan import LEARNING_RATES, JobPlan, checkpoint_steps
from flaxen.training.jobs.saved import SavedState
from flaxen.training.jobs.spec import (
    Base,
    JobCallbacks,
    JobSpec,
    adapter_directory,
    state_directory,
)
from flaxen.training.jobs.validate import Validation, make_validation
from flaxen.training.loop import Callbacks, TrainMetrics, train
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import Objective, Remat, next_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.state import TrainState
from flaxen.training.step import Sums, TrainStep, make_step, start
from flaxen.weights.adapters.adapter import from_stack
from flaxen.weights.adapters.peft_writer import save_adapter

_REMAT_ABOVE = 1024  # longer rows (in tokens) rematerialise: less memory, more time
_MAX_WARMUP = 10  # steps
# The chosen hyperparameters that are reported to the job.
_CHOSEN = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")


def run_job(spec: JobSpec, base: Base, callbacks: JobCallbacks) -> bool:
    """Trains until the end, or until it is told to stop.

    Args:
      spec: what to train; if its directory has a saved state, the job resumes.
      base: the model to adapt; it is neither changed nor copied.
      callbacks: the callbacks.

    Returns:
      Whether the job finished. If not, its state was saved.

    Raises:
      ValueError: the data is invalid, training diverged, or the saved state depends on something
          that has changed since, such as the served model.
      OSError: a file can't be read or written; ENOSPC if the disk is full.
    """
    try:
        with (
            open_job_data(spec, base, callbacks.should_stop) as data,
            Checkpoints(state_directory(spec.directory), keep=1) as checkpoints,
        ):
            return _set_up(spec, base, data, callbacks, checkpoints).run()
    except StoppedError:  # before the first step
        return False


def _set_up(
    spec: JobSpec, base: Base, data: JobData, callbacks: JobCallbacks, checkpoints: Checkpoints
) -> _JobRun:
    left = data.batches.remaining()
    assert left is not None, "a job has an end"
    num_steps = left.num_batches
    step = _make_step(spec, base.model, data.plan, num_steps)
    pauses = Pauses(callbacks)
    validation = None
    if data.validation is not None:
        validation = make_validation(
            step, base.params, data.validation, lambda: pauses.after("validation")
        )
    return _JobRun(
        spec=spec,
        base=base,
        data=data,
        callbacks=callbacks,
        step=step,
        num_steps=num_steps,
        validation=validation,
        pauses=pauses,
        saved=SavedState(spec, checkpoints, job_fingerprint(spec, base, data)),
    )


@dataclass(frozen=True, kw_only=True)
class _JobRun:
    """The parts of one job's run. Mutable state is in `pauses` and `saved`."""

    spec: JobSpec
    base: Base
    data: JobData
    callbacks: JobCallbacks
    step: TrainStep
    num_steps: int
    validation: Validation | None
    pauses: Pauses
    saved: SavedState

    def run(self) -> bool:
        """Runs the job, as described at run_job."""
        adapters = initial_adapters(self.base.model, self.spec.lora, [self.spec.seed])
        state = start(self.step, adapters, self.spec.seed)
        state = self.saved.resume(state, self.data.batches)
        chosen = {name: getattr(self.data.plan, name) for name in _CHOSEN}
        self.callbacks.on_start({k: value for k, value in chosen.items() if value is not None})
        self.pauses.begin()
        try:
            state = train(
                self.step,
                state,
                self.base.params,
                self.data.batches,
                num_steps=self.num_steps,
                num_microbatches=self.data.plan.rows_per_step,
                callbacks=Callbacks(
                    on_step=lambda metrics, state, compute: self._on_step(metrics, state),
                    on_microbatch=self._on_microbatch,
                    should_stop=self.callbacks.should_stop,
                ),
            )
        except StoppedError:
            pass
        else:
            if int(state.step) == self.num_steps:
                return True
        self.saved.save()
        return False

    def _on_microbatch(self, sums: Sums) -> None:
        jax.block_until_ready(sums.values["loss"])
        self.pauses.after("microbatch")

    def _on_step(self, metrics: TrainMetrics, state: TrainState) -> None:
        self.pauses.skip_first("update")
        self.saved.last = None  # its arrays are donated next; a validation may stop the job
        is_kept = metrics.step in checkpoint_steps(self.num_steps, self.data.plan.n_epochs)
        told = self._metrics(metrics, state, validates=is_kept)
        # Cannot be stopped from here on.
        self.saved.last = state
        self.saved.num_tokens += metrics.num_tokens
        self.callbacks.on_step(metrics.step, self.num_steps, told, self.saved.num_tokens)
        is_saved = is_kept or self.saved.is_due
        if is_saved:
            self._check_room(state)
        if is_kept:
            adapter = from_stack(self.spec.lora, state.params)
            directory = adapter_directory(self.spec.directory, metrics.step)
            save_adapter(directory, adapter, self.base.name, model=self.base.model)
            self.callbacks.on_checkpoint(metrics.step, told, metrics.step == self.num_steps)
        if is_saved:
            self.saved.save()

    def _metrics(
        self, metrics: TrainMetrics, state: TrainState, *, validates: bool
    ) -> dict[str, float]:
        """A step's metrics with OpenAI's names."""
        is_dpo = self.data.plan.beta is not None
        accuracy_name = "preference_accuracy" if is_dpo else "mean_token_accuracy"
        values = metrics.values
        found = {"train": (float(values["loss"][0]), float(values["accuracy"][0]))}
        if validates and self.validation is not None:
            found["valid"] = found["full_valid"] = self.validation(state.params)
        told: dict[str, float] = {}
        for name, (loss, accuracy) in found.items():
            told |= {f"{name}_loss": loss, f"{name}_{accuracy_name}": accuracy}
        return told

    def _check_room(self, state: TrainState) -> None:
        """Refuses to save on a nearly full disk, where the different writers would fail in many
        ways.
        """
        arrays = [leaf for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)]
        needed = 2 * sum(array.nbytes for array in arrays)  # the state and its adapter
        if self.callbacks.free_bytes(self.spec.directory) < needed:
            raise OSError(
                errno.ENOSPC, f"less than the {needed} bytes of a checkpoint are free",
                str(self.spec.directory),
            )  # fmt: skip


def _make_step(spec: JobSpec, model: Model, plan: JobPlan, num_steps: int) -> TrainStep:
    rate = LEARNING_RATES[spec.method] * plan.learning_rate_multiplier
    schedule = make_schedule(
        ScheduleConfig(warmup_steps=min(_MAX_WARMUP, num_steps // 10)), num_steps
    )
    optimizer = make_optimizer(OptimizerConfig(learning_rate=rate))
    trainable = lora(spec.lora, model=model)
    return make_step(trainable, _objective(model, plan), optimizer, schedule, [rate])


def _objective(model: Model, plan: JobPlan) -> Objective:
    remat: Remat = "layer" if plan.row_length > _REMAT_ABOVE else "none"
    if plan.beta is None:
        return next_token(model, remat=remat)
    return dpo(model, beta=plan.beta, remat=remat)
