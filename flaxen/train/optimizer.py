"""Optimizers and learning rate schedules, from their configuration to Optax.

What decays, and what Muon orthogonalises, is decided by each parameter's role. A learning rate is
not part of the optimizer: the step multiplies its updates by it, so that each adapter of a stack
may have its own. Deliberately does not know: models, losses, stacks of adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax

from flaxen.models.model import ParamSpec
from flaxen.models.params import is_spec

OptimizerName = Literal["adamw", "lion", "muon", "sgd"]
ScheduleName = Literal["constant", "cosine", "linear", "wsd"]

Schedule = Callable[[jax.Array], jax.Array]  # the step's number, from 0: share of the learning rate
# From the parameters that are trained to the tree of their ParamSpec.
Specs = Callable[[Any], Any]
# An optimizer before it is known what it trains; `train.step.make_step` says that.
Optimizer = Callable[[Specs], optax.GradientTransformation]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How gradients become updates.

    Raises:
      ValueError: an unknown optimizer, or a value out of its range.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-4  # the highest of the schedule
    # of matrices, experts and tables, never of vectors (norms, biases); times the learning rate
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0  # of all gradients together; None does not clip
    beta1: float = 0.9  # adamw, lion, muon's adamw
    beta2: float = 0.999  # adamw, lion, muon's adamw
    eps: float = 1e-8  # adamw, muon's adamw
    momentum: float = 0.95  # sgd, muon

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise ValueError(
                f"there is no optimizer {self.name!r}: use one of "
                f"{', '.join(get_args(OptimizerName))}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm must be above 0, got {self.max_grad_norm}: leave it empty to not "
                "clip"
            )
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        if not self.eps > 0:
            raise ValueError(f"eps must be above 0, got {self.eps}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate goes over the run: up in warm-up, then as named.

    Raises:
      ValueError: an unknown schedule, or a value out of its range.
    """

    name: ScheduleName = "cosine"
    warmup_steps: int = 0
    decay_steps: int | None = None  # wsd: how many last steps go down; None is a tenth of the run
    final_share: float = 0.0  # of the learning rate, at the end

    def __post_init__(self) -> None:
        if self.name not in get_args(ScheduleName):
            raise ValueError(
                f"there is no schedule {self.name!r}: use one of "
                f"{', '.join(get_args(ScheduleName))}"
            )
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        if self.decay_steps is not None and self.decay_steps < 1:
            raise ValueError(f"decay_steps must be at least 1, got {self.decay_steps}")
        if self.decay_steps is not None and self.name != "wsd":
            raise ValueError(
                f"decay_steps is of the schedule wsd, and not of {self.name}, which goes down all "
                "the time: leave it out"
            )
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share must be from 0 to 1, got {self.final_share}")


def make_schedule(config: ScheduleConfig, num_steps: int) -> Schedule:
    """The share of the learning rate at each step.

    Args:
      config: which one.
      num_steps: of the whole run.

    Raises:
      ValueError: the run is shorter than what the schedule needs.
    """
    rest = num_steps - config.warmup_steps
    decay_steps = config.decay_steps or max(1, num_steps // 10)
    needed = decay_steps if config.name == "wsd" else 1
    if rest < needed:
        raise ValueError(
            f"{num_steps} steps are too few for {config.warmup_steps} of warm-up and {needed} "
            f"after it: train longer, or shorten them"
        )
    after: Schedule
    if config.name == "constant":
        after = optax.constant_schedule(1.0)
    elif config.name == "cosine":
        after = optax.cosine_decay_schedule(1.0, rest, alpha=config.final_share)
    elif config.name == "linear":
        after = optax.linear_schedule(1.0, config.final_share, rest)
    else:
        after = optax.linear_schedule(1.0, config.final_share, decay_steps, rest - decay_steps)
    if not config.warmup_steps:
        return after
    # The first step is not at 0, which would be a step for nothing.
    first = 1 / (config.warmup_steps + 1)
    warmup = optax.linear_schedule(first, 1.0, config.warmup_steps)
    joined: Schedule = optax.join_schedules([warmup, after], [config.warmup_steps])
    return joined


def make_optimizer(config: OptimizerConfig) -> Optimizer:
    """The optimizer at the learning rate 1, gradients clipped before.

    Args:
      config: which one.
    """

    def of(specs: Specs) -> optax.GradientTransformation:
        made = _OPTIMIZERS[config.name](config, specs)
        if config.max_grad_norm is None:
            return made
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), made)

    return of


def _adamw(config: OptimizerConfig, specs: Specs) -> optax.GradientTransformation:
    return optax.adamw(
        1.0,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=_decaying(specs),
    )


def _lion(config: OptimizerConfig, specs: Specs) -> optax.GradientTransformation:
    return optax.lion(
        1.0,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decaying(specs),
    )


def _muon(config: OptimizerConfig, specs: Specs) -> optax.GradientTransformation:
    """Muon for matrices, and AdamW for tables and vectors, as Muon's authors do it. Experts, and
    matrices whose input axes are not known, are left to AdamW as well."""
    muon = optax.contrib.muon(
        1.0,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        consistent_rms=0.2,  # updates as large as adamw's: one learning rate for both
        muon_weight_dimension_numbers=_each(specs, _dimensions),
    )
    labels = _each(specs, lambda spec: "muon" if _dimensions(spec) is not None else "adamw")
    return optax.partition({"muon": muon, "adamw": _adamw(config, specs)}, labels)


def _sgd(config: OptimizerConfig, specs: Specs) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=_decaying(specs)),
        optax.sgd(1.0, momentum=config.momentum or None),
    )


_OPTIMIZERS: Mapping[
    OptimizerName, Callable[[OptimizerConfig, Specs], optax.GradientTransformation]
] = {"adamw": _adamw, "lion": _lion, "muon": _muon, "sgd": _sgd}


def _decaying(specs: Specs) -> Callable[[Any], Any]:
    return _each(specs, lambda spec: spec.role != "vector")


def _dimensions(spec: ParamSpec) -> optax.contrib.MuonDimensionNumbers | None:
    """The axes that Muon takes for a weight's inputs and outputs; along the other axes each matrix
    is made orthogonal on its own. None if Muon can't orthogonalise the parameter."""
    if spec.role != "matrix" or spec.matrix is None:
        return None
    return optax.contrib.MuonDimensionNumbers(spec.matrix.inputs, spec.matrix.outputs)


def _each(specs: Specs, of: Callable[[ParamSpec], Any]) -> Callable[[Any], Any]:
    """A function from parameters to a tree with `of` of each parameter's spec: an Optax mask."""
    return lambda params: jax.tree.map(of, specs(params), is_leaf=is_spec)
