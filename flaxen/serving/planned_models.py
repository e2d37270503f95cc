"""Opens several models and decides, before any weights are read, what memory each may take.

Deliberately does not know options, nor when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from flaxen.engine_args import EngineArgs
from flaxen.kv_store import can_store
from flaxen.memory.cache_plan import CachePlan
from flaxen.memory.device_memory import DEFAULT_UTILIZATION
from flaxen.memory.free_memory import free_bytes
from flaxen.memory.model_cache import beside_stored
from flaxen.model_pool.budget import Division, MemoryNeed, divide_budget
from flaxen.prepared import Prepared, prepare
from flaxen.serving.adapters import ServedAdapters
from flaxen.serving.sizes import show_size

if TYPE_CHECKING:
    from flaxen.prepared import OnProgress

_UNLIMITED = 2**60  # bytes: to find what a model would take if there were enough
_FREE_SHARE = 0.8  # of the free memory: steps, programs and tokenizers need some, too


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A model that is to be served, with its names and adapters."""

    args: EngineArgs
    names: tuple[str, ...] = ()  # (): its own
    adapters: ServedAdapters = field(default_factory=ServedAdapters)


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model whose memory is decided."""

    wanted: Wanted  # its arguments have its part of the memory
    name: str  # its own
    weight_bytes: int
    stored_bytes: int  # of stored pages, where they are in the memory that the models divide
    cache_plan: CachePlan

    @property
    def num_bytes(self) -> int:
        """The bytes that it takes once it is loaded."""
        return self.weight_bytes + self.stored_bytes + self.cache_plan.num_bytes


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of all models together."""

    models: tuple[PlannedModel, ...]
    budget_bytes: int
    reason: str  # of the budget, for readers
    fits_at_once: bool


def plan_models(
    wanted: Sequence[Wanted],
    *,
    budget_bytes: int | None,
    stays: bool,
    report: OnProgress,
    measure_free: Callable[[], int | None] = free_bytes,
) -> MemoryPlan:
    """Opens the models and divides the memory among them.

    Args:
      wanted: at least one.
      budget_bytes: the memory for all; None chooses it.
      stays: whether the first model is never unloaded.
      report: as in `build`.
      measure_free: gives the machine's free memory.

    Raises:
      ValueError: a model can't be served, or the memory is too small for one or for stored pages.
    """
    alone = [_alone(each, report) for each in wanted]
    beside = [each.args.kv_offload_bytes for each in alone if not _stored_bytes(each)]
    beside_stored(measure_free(), sum(beside), 0)  # raises if the host has no room
    budget, reason = _budget(budget_bytes, alone, wanted[0].args, measure_free)
    needs = [_need(each) for each in alone]
    division: Division = divide_budget(budget, needs, stays=stays)
    models = tuple(
        _planned(replace(one, args=replace(each.args, memory_bytes=num_bytes)), report)
        for each, one, num_bytes in zip(alone, wanted, division.num_bytes, strict=True)
    )
    return MemoryPlan(
        models=models, budget_bytes=budget, reason=reason, fits_at_once=division.fits_at_once
    )


def _alone(wanted: Wanted, report: OnProgress) -> Prepared:
    """The model as if there were enough memory. What was asked for several models holds as far as
    this one can: one that was made for fewer tokens has its own length, an encoder has no KV cache,
    and one with a state stores no pages.
    """
    args, lora = replace(wanted.args, memory_bytes=_UNLIMITED), wanted.adapters.limits
    if args.max_model_len is None and args.kv_cache_bytes is None and not args.stores_pages:
        return prepare(args, report, lora, None)
    own = prepare(replace(args, max_model_len=None, kv_cache_bytes=None), report, lora, None)
    if args.max_model_len is not None:
        args = replace(args, max_model_len=min(args.max_model_len, own.cache_plan.model_len))
    if not own.cache_plan.groups:
        args = replace(args, kv_cache_bytes=None)
    if not can_store(own):
        args = replace(args, kv_offload_bytes=0, kv_offload_dir=None, kv_offload_dir_bytes=None)
    return prepare(args, report, lora, None)


def _need(prepared: Prepared) -> MemoryNeed:
    plan = prepared.cache_plan
    is_asked = prepared.args.kv_cache_bytes is not None
    return MemoryNeed(
        name=prepared.checkpoint.name,
        weight_bytes=prepared.weight_bytes + _stored_bytes(prepared),
        least_bytes=plan.num_bytes if is_asked else min(plan.whole_bytes, plan.num_bytes),
        wanted_bytes=plan.num_bytes,
    )


def _stored_bytes(prepared: Prepared) -> int:
    """The bytes of stored pages in the memory that the models divide: an accelerator's has none."""
    return 0 if prepared.cache_plan.device is not None else prepared.args.kv_offload_bytes


def _planned(wanted: Wanted, report: OnProgress) -> PlannedModel:
    prepared = prepare(wanted.args, report, wanted.adapters.limits, None)
    return PlannedModel(
        wanted=wanted,
        name=wanted.args.served_model_name or prepared.checkpoint.name,
        weight_bytes=prepared.weight_bytes,
        stored_bytes=_stored_bytes(prepared),
        cache_plan=prepared.cache_plan,
    )


def _budget(
    given: int | None,
    models: Sequence[Prepared],
    args: EngineArgs,
    measure_free: Callable[[], int | None],
) -> tuple[int, str]:
    """The memory for all models, and why it is that."""
    if given is not None:
        return given, "as --models-memory says"
    devices = [each.cache_plan.device for each in models if each.cache_plan.device is not None]
    if devices:  # an encoder has no plan for one
        share = args.gpu_memory_utilization or DEFAULT_UTILIZATION
        steps = sum(device.step_bytes for device in devices)
        left = int(devices[0].limit_bytes * share) - steps
        return left, f"what {share:g} of the device's memory leaves beside {show_size(steps)}"
    free = measure_free()
    if free is None:
        raise ValueError(
            "this system does not say how much memory is free: say with --models-memory how much "
            "the models may take together"
        )
    return int(free * _FREE_SHARE), "four fifths of the memory that was free (--models-memory)"
