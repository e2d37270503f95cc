"""Says what a run is, and how it ended, in a line each.

Deliberately does not know terminals, or how a run works.
"""

from __future__ import annotations

import math
from pathlib import Path

import jax

from flaxen.models.params import is_spec
from flaxen.runs.display import describe_data
from flaxen.runs.model import next_command
from flaxen.runs.opening import OpenedRun, checkpoints_in
from flaxen.runs.plan import count, count_steps
from flaxen.runs.run import FinishedRun


def describe_start(opened: OpenedRun) -> str:
    """Describes what is trained."""
    config, specs = opened.config, opened.subject.model.param_specs
    num_params = sum(math.prod(spec.shape) for spec in jax.tree.leaves(specs, is_leaf=is_spec))
    num_trained = sum(leaf.size for leaf in jax.tree.leaves(opened.state.params))
    resumed = int(opened.state.step)
    trained = (
        f"all {count(num_trained, 'parameter')}"
        if config.method == "full"
        else f"{count(num_trained, 'parameter')} beside the model's {num_params:,}"
    )
    return (
        f"{opened.subject.name}, {config.method}: {trained}, computed in {opened.dtype.name}"
        f"{_describe_mesh(opened)}, into {config.output_dir}"
        + (f"; resumed after {count_steps(resumed)}" if resumed else "")
    )


def _describe_mesh(opened: OpenedRun) -> str:
    """Says which devices a run is divided over; the empty text for one."""
    model = opened.subject.model
    if model.placement is None:
        return ""
    platform = jax.default_backend()
    by = " by XLA, without the C++ kernels" if platform == "cpu" else ""
    shape = model.placement.shape
    return f" on {shape.num_devices} {platform} devices ({shape}){by}"


def describe_stop(opened: OpenedRun, finished: FinishedRun, directory: Path | None) -> str:
    """Says where a run that was stopped has its state, if anywhere."""
    num_steps = int(finished.state.step)
    made = f"stopped after {num_steps} of {count_steps(opened.num_steps)}"
    if directory is None:
        return f"{made}; nothing is saved, since the run has no output directory"
    if num_steps == 0:
        return f"{made}: nothing is trained yet, so nothing is saved"
    return f"{made}; the state is saved in {checkpoints_in(directory) / str(num_steps)}"


def describe_end(opened: OpenedRun, finished: FinishedRun, directory: Path) -> str:
    """Describes the results in a directory, and the steps that were made."""
    num_steps, results = int(finished.state.step), opened.results_in(directory)
    done = f"{', '.join(map(str, results))}: {count_steps(num_steps)} of training"
    if finished.num_before == num_steps:
        asked = opened.config.num_steps
        passed = f" (num_steps is {asked})" if asked is not None and asked < num_steps else ""
        done += f", all made before{passed}: nothing was left to train"
    data = describe_data(opened.batches.report())
    return "; ".join(filter(None, (done, data)))


def describe_use(opened: OpenedRun, directory: Path) -> str:
    """Says how to try the first of the results in a directory."""
    result = opened.results_in(directory)[0]
    return f"try it: {next_command(opened.config, opened.subject, result)}"
