"""Trains an opened run to its end, and writes the result.

Deliberately does not know: argv, terminals.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

import jax

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.runs.display import OnRecord
from flaxen.runs.model import write_results
from flaxen.runs.opening import OpenedRun, checkpoints_in
from flaxen.runs.resume import check_results, is_written, write_settings, writing_results
from flaxen.runs.stages import to_saved
from flaxen.sharding.processes import least_of_all, this_process
from flaxen.sharding.putting import gather
from flaxen.training.fingerprint import to_json
from flaxen.training.loop import Callbacks, TrainMetrics, train
from flaxen.training.metrics import (
    MetricsRecord,
    flops_per_token,
    measure_peak_flops,
    to_record,
    write_jsonl,
    write_tensorboard,
)
from flaxen.training.state import TrainState
from flaxen.training.step import Compute


class FinishedRun(NamedTuple):
    """The results of a run."""

    state: TrainState
    num_before: int  # steps that were made before the run was resumed


def run(
    opened: OpenedRun,
    *,
    peak_flops: float | None,
    on_record: OnRecord,
    should_stop: Callable[[], bool] = lambda: False,
) -> FinishedRun:
    """Trains an opened run to its end, and writes the result if it has an output directory.

    A run that is stopped saves its state there in place of a result.

    Args:
      opened: the parts; its state is donated.
      peak_flops: the machine's operations a second; None measures them.
      on_record: called with each step's record.
      should_stop: asked before each step.

    Raises:
      DivergedError: training diverged; the last checkpoint is from before.
      ValueError: a batch has no loss, or a result already exists.
      OSError: a file can't be written.
    """
    num_before, directory = int(opened.state.step), opened.config.output_dir
    should_stop = _stop_together(should_stop)
    to_number = _record_maker(opened, peak_flops)
    with contextlib.closing(opened.batches):
        if directory is None:
            callbacks = Callbacks(
                on_metrics=lambda metrics: on_record(to_number(metrics)), should_stop=should_stop
            )
            state = _train(opened, callbacks)
        else:
            state = _train_into(directory, opened, to_number, on_record, should_stop)
    return FinishedRun(state, num_before)


def _train(opened: OpenedRun, callbacks: Callbacks) -> TrainState:
    return train(
        *(opened.step, opened.state, opened.frozen, opened.batches),
        num_steps=opened.num_steps,
        num_microbatches=opened.config.num_microbatches,
        callbacks=callbacks,
    )


def _train_into(
    directory: Path,
    opened: OpenedRun,
    to_number: Callable[[TrainMetrics], MetricsRecord],
    on_record: OnRecord,
    should_stop: Callable[[], bool],
) -> TrainState:
    """Trains with checkpoints and metrics in a directory, and writes the result there.

    Of several processes each saves its own pieces of the states, and the first writes all else.
    """
    is_first = this_process().index == 0
    results, num_made = opened.results_in(directory), int(opened.state.step)
    if num_made == opened.num_steps and is_written(directory, results, num_made):
        return opened.state
    if is_first:
        check_results(directory, results, is_resumed=num_made > 0)
        directory.mkdir(parents=True, exist_ok=True)
        write_settings(directory, opened.config)
    with ExitStack() as stack:
        save = _state_saver(stack, opened, directory)
        writes: list[Callable[[MetricsRecord], None]] = [on_record]
        if is_first:
            jsonl = write_jsonl(directory / "metrics.jsonl", after_step=num_made)
            tensorboard = write_tensorboard(directory / "tensorboard")
            writes += [stack.enter_context(each) for each in (jsonl, tensorboard)]

        def on_metrics(metrics: TrainMetrics) -> None:
            record = to_number(metrics)
            for write in writes:
                write(record)

        def on_step(metrics: TrainMetrics, state: TrainState, compute: Compute) -> None:
            save(state, force=int(state.step) == opened.num_steps)

        callbacks = Callbacks(on_metrics=on_metrics, on_step=on_step, should_stop=should_stop)
        state = _train(opened, callbacks)
        if int(state.step) > num_made:
            save(state, force=True)  # of a stopped run; a finished one is saved already
    if int(state.step) < opened.num_steps:
        return state
    params, collections = gather((state.params, state.collections), wanted=is_first)
    if is_first:
        with writing_results(directory, results, int(state.step)):
            whole = state._replace(params=params, collections=collections, opt_state=None)
            whole = to_saved(opened.config, opened.subject.model, whole)
            write_results(opened.config, opened.subject, whole, opened.dtype, results)
    return state


def _stop_together(should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Makes all processes stop if one of them should, because none can go on alone."""
    if this_process().count == 1:
        return should_stop
    return lambda: least_of_all([0 if should_stop() else 1]) == [0]


def _record_maker(
    opened: OpenedRun, peak_flops: float | None
) -> Callable[[TrainMetrics], MetricsRecord]:
    """Makes a function that turns a step's metrics into its record."""
    model = opened.subject.model
    num_devices = 1
    if model.placement is not None and jax.default_backend() != "cpu":  # those share the CPU
        num_devices = model.placement.shape.num_devices
    return functools.partial(
        to_record,
        flops=flops_per_token(model, opened.step.trainable),
        peak_flops=peak_flops or num_devices * measure_peak_flops(model.backend),
        num_steps=opened.num_steps,
    )


class _SaveState(Protocol):
    """Saves the state every few steps, or at once if it is forced to."""

    def __call__(self, state: TrainState, *, force: bool) -> None: ...


def _state_saver(stack: ExitStack, opened: OpenedRun, directory: Path) -> _SaveState:
    """Makes a function that saves states in the background; closing the stack waits for it."""
    config = opened.config.checkpoint
    checkpoints = stack.enter_context(
        Checkpoints(
            checkpoints_in(directory),
            keep=config.keep,
            every=config.every,
            processes=this_process(),
        )
    )

    def save(state: TrainState, *, force: bool) -> None:
        saved = to_saved(opened.config, opened.subject.model, state)
        tree = saved._replace(data_state=None)  # saved separately, because it has no arrays
        extra = {"data": state.data_state, "run": to_json(opened.fingerprint)}
        checkpoints.save(int(state.step), tree, extra, force=force)

    return save
