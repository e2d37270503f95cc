"""Builds Optax optimizers and learning rate schedules from their configuration.

Weight decay and Muon apply to parameters by their role. The learning rate is not part of the
optimizer: the step multiplies the updates by it, so that each adapter of a stack can have its own.
Deliberately does not know: models, losses, stacks of adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax

from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec

OptimizerName = Literal["adamw", "lion", "muon", "sgd"]
ScheduleName = Literal["constant", "cosine", "linear", "wsd"]

# The step's number, from 0 -> the factor of the learning rate.
Schedule = Callable[[jax.Array], jax.Array]
# The trained parameters -> the tree of their ParamSpec.
Specs = Callable[[Any], Any]
# An optimizer that still needs the specs of what it trains, which `train.step.make_step` gives.
Optimizer = Callable[[Specs], optax.GradientTransformation]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer and its settings.

    Raises:
      ValueError: an unknown optimizer, or a value out of its range.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-4  # the peak of the schedule
    # applied to matrices, experts and tables, never to vectors (norms, biases); multiplied by the
    # learning rate
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0  # the limit of the global gradient norm; None does not clip
    beta1: float = 0.9  # adamw, lion, muon's adamw
    beta2: float = 0.999  # adamw, lion, muon's adamw
    eps: float = 1e-8  # adamw, muon's adamw
    momentum: float = 0.95  # sgd, muon
    # The weights of two losses of the routers of experts, which are added to that of the tokens:
    # their balance, as transformers' router_aux_loss_coef, and their z-loss.
    router_balance_loss: float = 0.0
    router_z_loss: float = 0.0

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
        for name in ("router_balance_loss", "router_z_loss"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.eps > 0:
            raise ValueError(f"eps must be above 0, got {self.eps}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate over the run: a warm-up, then the named schedule.

    Raises:
      ValueError: an unknown schedule, or a value out of its range.
    """

    name: ScheduleName = "cosine"
    warmup_steps: int = 0
    # Wsd: the number of last steps that decay; None is a tenth of the run.
    decay_steps: int | None = None
    final_share: float = 0.0  # the final learning rate as a share of the peak

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
                f"decay_steps belongs to the schedule wsd; {self.name} decays all "
                "the time: leave it out"
            )
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share must be from 0 to 1, got {self.final_share}")


def make_schedule(config: ScheduleConfig, num_steps: int) -> Schedule:
    """Makes the factor of the learning rate as a function of the step.

    Args:
      config: the settings.
      num_steps: the steps of the whole run.

    Raises:
      ValueError: the run is shorter than the schedule needs.
    """
    rest = num_steps - config.warmup_steps
    decay_steps = config.decay_steps or max(1, num_steps // 10)
    needed = decay_steps if config.name == "wsd" else 1
    if rest < needed:
        raise ValueError(
            f"{num_steps} step{'' if num_steps == 1 else 's'} can't hold {config.warmup_steps} of "
            f"warm-up and {needed} after it: train longer, or set schedule.warmup_steps lower"
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
    # Counted from 1: a first step with factor 0 would change nothing.
    first = 1 / (config.warmup_steps + 1)
    warmup = optax.linear_schedule(first, 1.0, config.warmup_steps)
    joined: Schedule = optax.join_schedules([warmup, after], [config.warmup_steps])
    return joined


def make_optimizer(config: OptimizerConfig) -> Optimizer:
    """Makes the optimizer for a learning rate of 1, with gradient clipping first.

    Args:
      config: the settings.
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
    """Muon for matrices, AdamW for tables and vectors, as Muon's authors recommend. Experts, and
    matrices with unknown input axes, use AdamW too.
    """
    muon = optax.contrib.muon(
        1.0,
        beta=config.momentum,
        weight_decay=config.weight_decay,
        consistent_rms=0.2,  # updates as large as AdamW's, so that one learning rate fits both
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
    """The axes that are a weight's inputs and outputs for Muon, which orthogonalises the matrices
    along other axes separately. None if Muon can't orthogonalise the parameter.
    """
    if spec.role != "matrix" or spec.matrix is None:
        return None
    return optax.contrib.MuonDimensionNumbers(spec.matrix.inputs, spec.matrix.outputs)


def _each(specs: Specs, of: Callable[[ParamSpec], Any]) -> Callable[[Any], Any]:
    """Makes an Optax mask: a function from parameters to a tree of `of(spec)` for each."""
    return lambda params: jax.tree.map(of, specs(params), is_leaf=is_spec)
