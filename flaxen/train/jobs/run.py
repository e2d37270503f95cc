"""One fine-tuning job: an adapter trained beside weights that somebody serves meanwhile.

Its state is saved now and then, so that a job that was stopped or killed goes on to the very same
adapter. Deliberately does not know: HTTP, databases, who serves.
"""

from __future__ import annotations

import errno
import time
from dataclasses import asdict

import jax

from flaxen.checkpoints.checkpoints import Checkpoints, read_extra
from flaxen.data.stopping import StoppedError
from flaxen.models.model import Model
from flaxen.train.dpo import dpo
from flaxen.train.fingerprint import check_unchanged, to_json
from flaxen.train.jobs.data import JobData, open_job_data
from flaxen.train.jobs.fingerprint import job_fingerprint
from flaxen.train.jobs.plan import LEARNING_RATES, JobPlan, checkpoint_steps
from flaxen.train.jobs.spec import Base, JobCallbacks, JobSpec, adapter_directory, state_directory
from flaxen.train.jobs.validate import Validation, make_validation
from flaxen.train.loop import Callbacks, TrainMetrics, train
from flaxen.train.lora import initial_adapters, lora
from flaxen.train.loss import Objective, Remat, next_token
from flaxen.train.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.train.state import TrainState
from flaxen.train.step import Sums, TrainStep, make_step, start
from flaxen.weights.adapters.adapter import from_stack
from flaxen.weights.adapters.peft import save_adapter

_REMAT_ABOVE = 1024  # tokens of a row, from where memory is saved at the price of time
_MAX_WARMUP = 10  # steps


def run_job(spec: JobSpec, base: Base, callbacks: JobCallbacks) -> bool:
    """Trains until the end, or until it is told to stop.

    Args:
      spec: what to train; a directory with a state in it is gone on with.
      base: what is adapted; nothing of it is changed or copied.
      callbacks: who is told.

    Returns:
      Whether it got to the end. If not, its state is saved.

    Raises:
      ValueError: the data can't be trained on, training diverged, or the state in the directory
        depends on something that has changed since, such as the model that is served.
      OSError: a file can't be read or written; ENOSPC where the disk has no room.
    """
    try:
        with (
            open_job_data(spec, base, callbacks.should_stop) as data,
            Checkpoints(state_directory(spec.directory), keep=1) as checkpoints,
        ):
            return _Job(spec, base, data, callbacks, checkpoints).run()
    except StoppedError:  # before the first step
        return False


def _objective(model: Model, plan: JobPlan) -> Objective:
    remat: Remat = "layer" if plan.row_length > _REMAT_ABOVE else "none"
    if plan.beta is None:
        return next_token(model, remat=remat)
    return dpo(model, beta=plan.beta, remat=remat)


class _Job:
    """A run's parts, and what it has got to. Final."""

    def __init__(
        self,
        spec: JobSpec,
        base: Base,
        data: JobData,
        callbacks: JobCallbacks,
        checkpoints: Checkpoints,
    ) -> None:
        self._spec, self._base, self._plan, self._callbacks = spec, base, data.plan, callbacks
        self._batches, self._checkpoints = data.batches, checkpoints
        num_steps = data.batches.num_batches()
        assert num_steps is not None, "a job has an end"
        self._num_steps = num_steps
        self._kept_steps = checkpoint_steps(num_steps, data.plan.n_epochs)
        self._step = self._make_step()
        self._validation: Validation | None = None
        if data.validation is not None:
            self._validation = make_validation(
                self._step, base.params, data.validation, lambda: self._worked("validation")
            )
        self._fingerprint = job_fingerprint(spec, base, data)
        self._state: TrainState | None = None  # after the last whole step
        self._num_tokens = 0
        self._metrics: TrainMetrics | None = None
        self._since_s = self._saved_s = time.monotonic()
        self._compiled: set[str] = set()  # kinds of work that were done once

    def run(self) -> bool:
        spec, plan = self._spec, self._plan
        adapters = initial_adapters(self._base.model, spec.lora, [spec.seed])
        state = start(self._step, adapters, spec.seed)
        if saved := self._checkpoints.steps():
            directory = state_directory(spec.directory)
            extra = read_extra(directory, saved[-1])
            check_unchanged(
                extra.get("run"),
                self._fingerprint,
                what=f"the job was stopped after step {saved[-1]}",
                anew="create a new job",
            )
            state = self._checkpoints.restore(state).tree
            self._batches.restore(extra["data"])
            self._num_tokens = extra["num_tokens"]
        chosen = {name: value for name, value in asdict(plan).items() if value is not None}
        names = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
        self._callbacks.on_start({name: chosen[name] for name in names if name in chosen})
        self._since_s = time.monotonic()
        try:
            state = train(
                self._step,
                state,
                self._base.params,
                self._batches,
                num_steps=self._num_steps,
                num_microbatches=plan.rows_per_step,
                callbacks=Callbacks(
                    on_metrics=self._on_metrics,
                    on_step=lambda state, compute: self._on_step(state),
                    on_microbatch=self._on_microbatch,
                    should_stop=self._callbacks.should_stop,
                ),
            )
        except StoppedError:
            pass
        else:
            if int(state.step) == self._num_steps:
                return True
        if self._state is not None:
            self._save()
        return False

    def _make_step(self) -> TrainStep:
        spec, plan = self._spec, self._plan
        rate = LEARNING_RATES[spec.method] * plan.learning_rate_multiplier
        warmup = min(_MAX_WARMUP, self._num_steps // 10)
        schedule = make_schedule(ScheduleConfig(warmup_steps=warmup), self._num_steps)
        optimizer = make_optimizer(OptimizerConfig(learning_rate=rate))
        objective = _objective(self._base.model, plan)
        return make_step(lora(spec.lora), objective, optimizer, schedule, [rate])

    def _on_microbatch(self, sums: Sums) -> None:
        jax.block_until_ready(sums.values["loss"])
        self._worked("microbatch")

    def _worked(self, kind: str) -> None:
        """A piece of work is done: lets others work, and stops if that is wanted.

        The first of a kind was mostly compiling: to rest for several times as long would hold up
        the job for minutes, for what comes once.
        """
        worked_s = time.monotonic() - self._since_s if kind in self._compiled else 0.0
        self._compiled.add(kind)
        self._callbacks.rest(worked_s)
        if self._callbacks.should_stop():
            raise StoppedError
        self._since_s = time.monotonic()

    def _on_metrics(self, metrics: TrainMetrics) -> None:
        self._metrics = metrics
        if "update" not in self._compiled:
            self._compiled.add("update")
            self._since_s = time.monotonic()

    def _on_step(self, state: TrainState) -> None:
        assert self._metrics is not None, "the loop gives a step's metrics before its state"
        self._state = None  # its arrays are gone, and a validation may be stopped
        step, found = self._metrics.step, self._metrics.values
        is_kept = step in self._kept_steps
        metrics = {
            "train_loss": float(found["loss"][0]),
            self._accuracy("train"): float(found["accuracy"][0]),
        }
        if is_kept and self._validation is not None:
            loss, accuracy = self._validation(state.params)
            for name in ("valid", "full_valid"):
                metrics |= {f"{name}_loss": loss, self._accuracy(name): accuracy}
        # From here on nothing stops.
        self._state = state
        self._num_tokens += self._metrics.num_tokens
        self._callbacks.on_step(step, self._num_steps, metrics, self._num_tokens)
        is_saved = is_kept or time.monotonic() - self._saved_s > self._spec.save_every_s
        if is_saved:
            self._check_room()
        if is_kept:
            adapter = from_stack(self._spec.lora, state.params)
            directory = adapter_directory(self._spec.directory, step)
            save_adapter(directory, adapter, self._base.name, model=self._base.model)
            self._callbacks.on_checkpoint(step, metrics, step == self._num_steps)
        if is_saved:
            self._save()

    def _accuracy(self, name: str) -> str:
        what = "mean_token_accuracy" if self._plan.beta is None else "preference_accuracy"
        return f"{name}_{what}"

    def _check_room(self) -> None:
        """Refuses to begin what a full disk would cut off, in whose writers' many ways."""
        arrays = [leaf for leaf in jax.tree.leaves(self._state) if isinstance(leaf, jax.Array)]
        needed = 2 * sum(array.nbytes for array in arrays)  # the state, and the adapter of it
        if self._callbacks.free_bytes(self._spec.directory) < needed:
            raise OSError(
                errno.ENOSPC, f"less than the {needed} bytes of a checkpoint are free",
                str(self._spec.directory),
            )  # fmt: skip

    def _save(self) -> None:
        assert self._state is not None
        extra = {
            "data": self._state.data_state,
            "num_tokens": self._num_tokens,
            "run": to_json(self._fingerprint),
        }
        tree = self._state._replace(data_state=None)
        self._checkpoints.save(int(self._state.step), tree, extra, force=True)
        self._saved_s = time.monotonic()
