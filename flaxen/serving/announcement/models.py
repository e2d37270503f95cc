"""The facts of the announcement about several models and their memory."""

from __future__ import annotations

from collections.abc import Iterator

from flaxen.model_pool.pool import ModelPool
from flaxen.model_pool.slot import Slot
from flaxen.serving.announcement.context import describe_context, describe_pool
from flaxen.serving.fact import Fact
from flaxen.serving.planned_models import MemoryPlan, PlannedModel
from flaxen.serving.sizes import show_size


def about_models(pool: ModelPool, plan: MemoryPlan) -> Iterator[Fact]:
    """A line for each model, and one for the memory that they share."""
    for slot, planned in zip(pool.slots, plan.models, strict=True):
        yield Fact(label="model", text=_text(slot, planned), fields={})
    needed = sum(each.num_bytes for each in plan.models)
    together = (
        f"all of them take {show_size(needed)}"
        if plan.fits_at_once
        else f"all of them would take {show_size(needed)}, so the least recently used is unloaded"
    )
    models = [
        {
            "names": list(slot.model.names),
            "state": slot.state.value,
            "num_bytes": planned.num_bytes,
            "max_model_len": planned.cache_plan.max_model_len,
        }
        for slot, planned in zip(pool.slots, plan.models, strict=True)
    ]
    yield Fact(
        label="for models",
        text=f"{show_size(plan.budget_bytes)}, {plan.reason}; {together}",
        fields={"models": models, "models_memory_bytes": plan.budget_bytes},
    )


def _text(slot: Slot, planned: PlannedModel) -> str:
    cache = planned.cache_plan
    state = "loaded" if slot.loaded is not None else "loaded when a request names it"
    if slot.model.stays:
        state = "loaded, and never unloaded"
    parts = [
        " = ".join(slot.model.names),
        f"{show_size(planned.weight_bytes)} of weights",
        f"KV cache of {show_size(cache.num_bytes)} ({describe_pool(cache)})",
        f"context of {describe_context(cache)}",
    ]
    if slot.model.adapters:
        parts.append(f"adapters {', '.join(slot.model.adapters)}")
    return f"{', '.join(parts)}; {state}"
