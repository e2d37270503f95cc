"""A training run from its configuration to its result: opens the parts and wires them.

Deliberately does not know: argv, terminals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxen.checkpoints.checkpoints import Checkpoints, read_extra, restore, steps_in
from flaxen.cli.train.display import describe_data
from flaxen.cli.train.model import (
    Progress,
    Subject,
    dtype_of,
    how_to_use,
    load,
    open_subject,
    with_targets,
    write_results,
)
from flaxen.cli.train.resume import (
    check_output_dir,
    check_results,
    is_written,
    run_fingerprint,
    write_settings,
    writing_results,
)
from flaxen.data.iterate import DataIterator, open_data, open_pairs
from flaxen.data.token_store import TokenStore
from flaxen.models.model import Model, Params
from flaxen.text.given_template import read_template
from flaxen.train.config import TrainConfig
from flaxen.train.dpo import dpo
from flaxen.train.fingerprint import Fingerprint, check_unchanged, to_json
from flaxen.train.full import full
from flaxen.train.loop import Callbacks, TrainMetrics, train
from flaxen.train.lora import lora
from flaxen.train.loss import next_token
from flaxen.train.metrics import (
    MetricsRecord,
    flops_per_token,
    measure_peak_flops,
    to_record,
    write_jsonl,
    write_tensorboard,
)
from flaxen.train.optimizer import make_optimizer, make_schedule
from flaxen.train.state import TrainState
from flaxen.train.step import Compute, TrainStep, make_step, start


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run, opened and checked."""

    config: TrainConfig
    subject: Subject  # the model
    dtype: jnp.dtype  # of compute
    step: TrainStep
    state: TrainState  # where the run begins, or goes on
    frozen: Params  # None where all is trained
    batches: DataIterator[Any]
    num_steps: int  # in all, never fewer than were made
    fingerprint: Fingerprint  # of what the state depends on

    @property
    def results(self) -> list[Path]:
        """The directories that the run ends with."""
        directory = self.config.output_dir
        if self.config.method == "full":
            return [directory / "model"]
        count = self.config.lora.num_adapters
        if count == 1:
            return [directory / "adapter"]
        return [directory / f"adapter-{index}" for index in range(count)]


def open_run(config: TrainConfig, *, resume: bool, offline: bool, on_progress: Progress) -> Run:
    """Opens model and data, and restores the last checkpoint. Refuses before it computes.

    Args:
      config: the run.
      resume: goes on from the last checkpoint, or begins where there is none.
      offline: never download.
      on_progress: called with (stage, done, total).

    Raises:
      ValueError: no such model, bad data, or an output directory that holds another run, the same
        with something changed that its state depends on, or somebody's files.
      OSError: a file can't be read or written.
    """
    saved = steps_in(_checkpoints(config.output_dir))
    if saved and not resume:
        raise ValueError(
            f"{config.output_dir} holds a run of {_steps(saved[-1])}: give --resume to go on, or "
            "another output_dir"
        )
    if not saved:
        check_output_dir(config.output_dir)
    if (given := config.data.chat_template) is not None:  # as it is now, until the end
        data = replace(config.data, chat_template=read_template(given))
        config = replace(config, data=data)
    subject = open_subject(config, offline=offline)
    model = subject.model
    config = with_targets(config, model)
    if config.data.sequence_length > model.max_position:
        raise ValueError(
            f"data.sequence_length is {config.data.sequence_length}, and the model was made for "
            f"{model.max_position} tokens: lower it"
        )
    opener = open_pairs if config.method == "dpo" else open_data
    batches: DataIterator[Any] = opener(
        _endless(config).data,
        subject.tokenizer,
        vocab_size=model.vocab_size,
        # The system's temporary directory may be memory.
        store=TokenStore(directory=config.output_dir),
    )
    dtype = dtype_of(config, subject)
    fingerprint = run_fingerprint(config, subject, dtype, batches)
    num_made, place = 0, None
    if saved:
        num_made = saved[-1]
        place = _place(config.output_dir, num_made, fingerprint)
        batches.restore(place)
    num_steps = config.num_steps or num_made + (batches.num_batches() or 0)
    num_steps = max(num_steps, num_made)
    step = _make_step(config, model, dtype, num_steps)
    loaded = load(config, subject, dtype, on_progress)
    state = start(step, loaded.masters, config.seed, loaded.collections)
    if saved:
        state = restore(_checkpoints(config.output_dir), state, num_made).tree
        state = state._replace(data_state=place)
    return Run(
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


def _endless(config: TrainConfig) -> TrainConfig:
    """With num_steps, the data are read as often as it takes, whatever data.epochs says."""
    if config.num_steps is None:
        return config
    return replace(config, data=replace(config.data, epochs=None))


def _place(output_dir: Path, num_made: int, fingerprint: Fingerprint) -> Any:
    """Where a saved run reads its data next.

    Raises:
      ValueError: the run is another one.
    """
    extra = read_extra(_checkpoints(output_dir), num_made)
    check_unchanged(
        extra.get("run"),
        fingerprint,
        what=f"{output_dir} holds a run of {_steps(num_made)}",
        anew="give another output_dir to begin anew",
    )
    return extra["data"]


def run(
    opened: Run, *, peak_flops: float | None, on_record: Callable[[Mapping[str, Any]], None]
) -> str:
    """Trains to the end, and writes the result.

    Args:
      opened: the parts; its state is donated.
      peak_flops: of the machine; None measures them.
      on_record: called with each step's record.

    Returns:
      What was written, in words.

    Raises:
      DivergedError: training diverged; the checkpoints are from before.
      ValueError: a batch has no loss, or a result is there already.
      OSError: a file can't be written.
    """
    config, results = opened.config, opened.results
    num_made = int(opened.state.step)
    if num_made == opened.num_steps and is_written(config.output_dir, results, num_made):
        return _said(opened, num_made, num_made)
    check_results(config.output_dir, results, is_resumed=num_made > 0)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    write_settings(config.output_dir, config)
    to_number = functools.partial(
        to_record,
        flops=flops_per_token(opened.subject.model, opened.step.trainable),
        peak_flops=peak_flops or measure_peak_flops(),
        num_steps=opened.num_steps,
    )
    with ExitStack() as stack:
        stack.callback(opened.batches.close)
        checkpoints = stack.enter_context(
            Checkpoints(
                _checkpoints(config.output_dir),
                keep=config.checkpoint.keep,
                every=config.checkpoint.every,
            )
        )
        writes: list[Callable[[MetricsRecord], None]] = [
            stack.enter_context(
                write_jsonl(config.output_dir / "metrics.jsonl", after_step=num_made)
            ),
            stack.enter_context(write_tensorboard(config.output_dir / "tensorboard")),
            on_record,
        ]

        def on_metrics(metrics: TrainMetrics) -> None:
            record = to_number(metrics)
            for write in writes:
                write(record)

        def save(state: TrainState, *, force: bool) -> None:
            tree = state._replace(data_state=None)  # no arrays: beside them
            extra = {"data": state.data_state, "run": to_json(opened.fingerprint)}
            checkpoints.save(int(state.step), tree, extra, force=force)

        def on_step(metrics: TrainMetrics, state: TrainState, compute: Compute) -> None:
            save(state, force=int(state.step) == opened.num_steps)

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
        trainable = full(model, dtype=dtype, packed=model.backend.packs_weights)
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


def _said(opened: Run, num_before: int, num_steps: int) -> str:
    """What there is, and what was done for it; `num_before` steps were made by an earlier part."""
    written = ", ".join(map(str, opened.results))
    done = f"{written}: {_steps(num_steps)} of training"
    if num_before == num_steps:
        asked = opened.config.num_steps
        passed = f" (num_steps is {asked})" if asked is not None and asked < num_steps else ""
        done += f", all made before{passed}: nothing was left to train"
    data = describe_data(opened.batches.report())
    use = how_to_use(opened.config, opened.subject, opened.results[0])
    return "; ".join(filter(None, (done, data, use)))


def _steps(number: int) -> str:
    return f"{number} step{'' if number == 1 else 's'}"
