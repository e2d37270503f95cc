"""Plans a training step on hardware that is not here: its memory, and the least time that it takes.

The programs are those of `training.step`. Deliberately does not know data, nor how a plan is
printed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from flaxen.models.adapters import LoraConfig, lora_targets
from flaxen.models.layout import check_layout
from flaxen.models.model import Model
from flaxen.planning.compiling import RefusedError, compile_for
from flaxen.planning.memory import Compiled, Memory
from flaxen.planning.params import device_bytes, param_shapes
from flaxen.planning.roofline import Times, Work, step_times
from flaxen.planning.targets import Hardware
from flaxen.planning.training_work import training_work
from flaxen.tensors.packing.layout import Layout
from flaxen.training.abstract_step import AbstractStep, abstract_step
from flaxen.training.full import full
from flaxen.training.lora import initial_adapters, lora
from flaxen.training.loss import REMATS, Remat, next_token
from flaxen.training.optimizer import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from flaxen.training.step import TrainStep, make_step

TrainMethod = Literal["full", "lora"]
METHODS: tuple[TrainMethod, ...] = get_args(TrainMethod)


@dataclass(frozen=True, kw_only=True)
class TrainingArgs:
    """The step to plan. Names are those of a run's settings.

    Raises:
      ValueError: an unknown method or remat, or a size below 1.
    """

    method: str  # full, lora
    batch_size: int  # rows of a microbatch, on the whole mesh
    sequence_length: int  # tokens of a row
    remat: str = "none"  # none, layer

    def __post_init__(self) -> None:
        for name, words in {"method": METHODS, "remat": REMATS}.items():
            if getattr(self, name) not in words:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} can't be planned: use {' or '.join(words)}"
                )
        for name in ("batch_size", "sequence_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A step of one microbatch, and its update."""

    args: TrainingArgs
    memory: Memory  # of one device
    work: Work  # of one device
    times: Times
    tokens_per_s: float
    compiled: tuple[Compiled, ...]  # forward and backward, and the update; () if from shapes
    refusal: str | None

    @property
    def fits(self) -> bool:
        """Whether the run fits the devices, and the compiler takes it."""
        return self.memory.fits and self.refusal is None


def plan_training(
    model: Model,
    hardware: Hardware,
    args: TrainingArgs,
    dtype: jnp.dtype,
    *,
    layouts: Sequence[Layout | None] | None = None,
    compiles: bool,
) -> TrainingPlan:
    """Plans a step with AdamW, as `flaxen train` makes it.

    Args:
      model: the model on its backend and the whole mesh; with devices to compile for, if
        `compiles`.
      hardware: where it would run.
      args: the step.
      dtype: of compute.
      layouts: as in `param_shapes`, of the frozen weights under adapters.
      compiles: whether to compile the step.

    Raises:
      ValueError: the model or the microbatch can't be divided so.
    """
    assert model.placement is not None
    check_layout(model.param_specs, model.placement)
    if args.sequence_length > model.max_position:
        raise ValueError(
            f"sequence_length is {args.sequence_length}, and the model was made for "
            f"{model.max_position} tokens: lower it"
        )
    step, shapes = _step(model, args, dtype, layouts)
    work = training_work(model, shapes, args.remat == "layer", dtype.itemsize)
    compiled: list[Compiled] = []
    refusal = None
    held = _held(shapes)
    is_hopeless = sum(size for _, size in held) > hardware.chip.hbm_bytes
    if compiles and not is_hopeless:
        num_devices = model.placement.shape.num_devices
        try:
            first, sent = compile_for(shapes.lower_accumulate(step), "training", num_devices)
            second, sent_too = compile_for(shapes.lower_update(step), "update", num_devices)
            compiled = [first, second]
            work = replace(work, collectives=(*sent, *sent_too))
        except RefusedError as error:
            refusal = str(error)
    times = step_times(work, hardware.chip, hardware.chip.bf16_peak)
    parts = [*held, *_temporaries(model, args, dtype, compiled)]
    return TrainingPlan(
        args=args,
        memory=Memory(hbm_bytes=hardware.chip.hbm_bytes, parts=tuple(parts)),
        work=work,
        times=times,
        tokens_per_s=args.batch_size * args.sequence_length / times.least_s,
        compiled=tuple(compiled),
        refusal=refusal,
    )


def _step(
    model: Model, args: TrainingArgs, dtype: jnp.dtype, layouts: Sequence[Layout | None] | None
) -> tuple[TrainStep, AbstractStep]:
    """The step as a run makes it, and the shapes of its arguments."""
    remat: Remat = "layer" if args.remat == "layer" else "none"
    if args.method == "full":
        trainable, frozen = full(model, dtype=dtype), None
        masters = param_shapes(model, jnp.dtype("float32"))
    else:
        config = LoraConfig(targets=lora_targets(model))
        trainable, frozen = lora(config, model=model), param_shapes(model, dtype, layouts)
        masters = jax.eval_shape(functools.partial(initial_adapters, model, config, (0,)))
    optimizer = OptimizerConfig()
    step = make_step(
        trainable,
        next_token(model, remat=remat),
        make_optimizer(optimizer),
        make_schedule(ScheduleConfig(name="constant"), num_steps=1),
        (optimizer.learning_rate,),
    )
    rows, length = args.batch_size, args.sequence_length
    return step, abstract_step(step, masters, frozen, rows, length)


def _held(shapes: AbstractStep) -> list[tuple[str, int]]:
    """The arrays that stay in memory between two programs of a step."""
    computes_apart = shapes.compute is not shapes.masters
    return [
        ("master parameters", device_bytes(shapes.masters)),
        ("optimizer state", device_bytes(shapes.opt_state)),
        ("gradients", device_bytes(shapes.sums)),
        *([("compute parameters", device_bytes(shapes.compute))] if computes_apart else []),
        *([] if shapes.frozen is None else [("frozen parameters", device_bytes(shapes.frozen))]),
        ("batch", device_bytes(shapes.microbatch)),
    ]


def _temporaries(
    model: Model, args: TrainingArgs, dtype: jnp.dtype, compiled: list[Compiled]
) -> list[tuple[str, int]]:
    """The memory that a program takes while it runs: by the compiler, or estimated."""
    if compiled:
        largest = max(each.temporary_bytes + each.output_bytes for each in compiled)
        return [("temporaries", largest), ("code", sum(each.code_bytes for each in compiled))]
    return [("activations, estimated", activation_bytes(model, args, dtype.itemsize))]


def activation_bytes(model: Model, args: TrainingArgs, itemsize: int) -> int:
    """An estimate of what a backward pass keeps of the forward pass, on one device.

    A layer keeps what its products read, its inputs, both halves of the gate, queries and keys:
    some fourteen times the model's width for each token. With remat each layer keeps its input, and
    one layer is whole at a time.
    """
    assert model.placement is not None
    shape = model.placement.shape
    tokens = args.batch_size * args.sequence_length // (shape.data * shape.fsdp * shape.context)
    width = tokens * (model.embed_dim or 0) * itemsize
    num_layers = len(model.cache_specs)
    whole = _KEPT_WIDTHS * width // shape.tensor
    return num_layers * width + whole if args.remat == "layer" else num_layers * (width + whole)


_KEPT_WIDTHS = 14
