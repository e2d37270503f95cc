"""Trains an opened run to its end, and writes the result.

Deliberately does not know: argv, terminals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.runs.display import OnRecord, describe_data
from flaxen.runs.model import how_to_use, write_results
from flaxen.runs.opening import OpenedRun, count_steps
from flaxen.runs.resume import check_results, is_written, write_settings, writing_results
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


def run(opened: OpenedRun, *, peak_flops: float | None, on_record: OnRecord) -> str:
    """Trains an opened run to its end, and writes the result.

    Args:
      opened: the parts; its state is donated.
      peak_flops: the machine's operations a second; None measures them.
      on_record: called with each step's record.

    Returns:
      A text that says what was written.

    Raises:
      DivergedError: training diverged; the last checkpoint is from before.
      ValueError: a batch has no loss, or a result already exists.
      OSError: a file can't be written.
    """
    config, results = opened.config, opened.results
    num_made = int(opened.state.step)
    if num_made == opened.num_steps and is_written(config.output_dir, results, num_made):
        return _said(opened, num_made, num_made)
    check_results(config.output_dir, results, is_resumed=num_made > 0)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    write_settings(config.output_dir, config)
    with ExitStack() as stack:
        stack.callback(opened.batches.close)
        on_step = _state_saver(stack, opened)
        on_metrics = _metrics_writer(stack, opened, peak_flops, on_record)
        state = train(
            *(opened.step, opened.state, opened.frozen, opened.batches),
            num_steps=opened.num_steps,
            num_microbatches=config.num_microbatches,
            callbacks=Callbacks(on_metrics=on_metrics, on_step=on_step),
        )
    num_steps = int(state.step)
    with writing_results(config.output_dir, results, num_steps):
        write_results(config, opened.subject, state, opened.dtype, results)
    return _said(opened, num_made, num_steps)


def _metrics_writer(
    stack: ExitStack, opened: OpenedRun, peak_flops: float | None, on_record: OnRecord
) -> Callable[[TrainMetrics], None]:
    """Makes a callback that writes each step's metrics to files, which close with the stack."""
    directory = opened.config.output_dir
    to_number = functools.partial(
        to_record,
        flops=flops_per_token(opened.subject.model, opened.step.trainable),
        peak_flops=peak_flops or measure_peak_flops(opened.subject.model.backend),
        num_steps=opened.num_steps,
    )
    jsonl = write_jsonl(directory / "metrics.jsonl", after_step=int(opened.state.step))
    writes: list[Callable[[MetricsRecord], None]] = [
        stack.enter_context(jsonl),
        stack.enter_context(write_tensorboard(directory / "tensorboard")),
        on_record,
    ]

    def on_metrics(metrics: TrainMetrics) -> None:
        record = to_number(metrics)
        for write in writes:
            write(record)

    return on_metrics


def _state_saver(
    stack: ExitStack, opened: OpenedRun
) -> Callable[[TrainMetrics, TrainState, Compute], None]:
    """Makes a callback that saves the state every few steps, and the last one; closing the stack
    waits for it.
    """
    config = opened.config.checkpoint
    checkpoints = stack.enter_context(
        Checkpoints(opened.checkpoints, keep=config.keep, every=config.every)
    )

    def on_step(metrics: TrainMetrics, state: TrainState, compute: Compute) -> None:
        step = int(state.step)
        tree = state._replace(data_state=None)  # saved separately, because it has no arrays
        extra = {"data": state.data_state, "run": to_json(opened.fingerprint)}
        checkpoints.save(step, tree, extra, force=step == opened.num_steps)

    return on_step


def _said(opened: OpenedRun, num_before: int, num_steps: int) -> str:
    """Describes the result and the steps; `num_before` steps were done before resuming."""
    written = ", ".join(map(str, opened.results))
    done = f"{written}: {count_steps(num_steps)} of training"
    if num_before == num_steps:
        asked = opened.config.num_steps
        passed = f" (num_steps is {asked})" if asked is not None and asked < num_steps else ""
        done += f", all made before{passed}: nothing was left to train"
    data = describe_data(opened.batches.report())
    use = how_to_use(opened.config, opened.subject, opened.results[0])
    return "; ".join(filter(None, (done, data, use)))
