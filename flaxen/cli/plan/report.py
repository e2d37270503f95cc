"""A plan as a table for readers, and as JSON. Deliberately does not know how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from flaxen.cli.sizes import show_size
from flaxen.planning.collectives import Collective
from flaxen.planning.memory import Memory
from flaxen.planning.plan import Plan
from flaxen.planning.serving import ServingPlan, StepPlan


def table(plan: Plan) -> Table:
    """The plan as one table: the memory of a device, what fits into it, and the steps."""
    made = Table(title=_title(plan), show_header=False, title_justify="left")
    made.add_column(no_wrap=True)
    made.add_column(justify="right")
    made.add_column(justify="right")
    serving = plan.serving
    _add_memory(made, serving.memory, serving.fits)
    if serving.config is None:
        return made
    made.add_section()
    made.add_row("[bold]it holds[/bold]", "", "")
    made.add_row("sequences at once", f"{serving.largest_batch:,}", _tokens(serving.max_model_len))
    made.add_row("longest sequence", _tokens(serving.longest_context), "")
    made.add_row("all KV pages", _tokens(serving.num_cache_tokens), "")
    if serving.decode is not None and serving.prefill is not None:
        made.add_section()
        _add_steps(made, serving.decode, serving.prefill)
    return made


def lines_under(plan: Plan) -> list[str]:
    """What the table does not say: whether it fits, and where the figures are from."""
    found = [_verdict(plan)]
    reason = plan.why_not_compiled
    if plan.serving.refusal is not None:
        found.append(plan.serving.refusal)
    elif reason is not None:
        found.append(f"From shapes alone: {reason}.")
    else:
        found.append(_compile_times(plan.serving))
    if plan.serving.num_replicas > 1:
        found.append(
            f"The memory, and what it holds, are those of one of {plan.serving.num_replicas} data "
            "replicas; tokens a second are those of all."
        )
    found.append(
        "Times are the least that published figures allow; an engine needs more. Nothing ran."
    )
    return found


def _title(plan: Plan) -> str:
    size = f"{plan.num_params / 1e9:.2f} B parameters"
    return f"{plan.model} ({size}, {plan.dtype}) on {plan.hardware.name}, {plan.mesh}"


def _verdict(plan: Plan) -> str:
    memory = plan.serving.memory
    if plan.serving.fits:
        return f"It fits: {show_size(memory.hbm_bytes - memory.used_bytes)} of each device is left."
    if memory.missing_bytes == 0:
        return "It does not fit, by what the compiler says:"
    return (
        f"It does not fit: each device lacks {show_size(memory.missing_bytes)}. Use a mesh with a "
        "larger tensor axis, a shorter --max-model-len, fewer --max-num-seqs or "
        "--max-num-batched-tokens, or devices with more memory"
    )


def _compile_times(serving: ServingPlan) -> str:
    steps = {"decode": serving.decode, "prefill": serving.prefill}
    parts = [
        f"{name} in {step.compiled.seconds:.0f} s"
        for name, step in steps.items()
        if step is not None and step.compiled is not None
    ]
    return f"Compiled here for the target: {', '.join(parts)}." if parts else "Nothing compiled."


def _add_memory(made: Table, memory: Memory, fits: bool) -> None:
    made.add_row("[bold]memory of each device[/bold]", "", "")
    for name, size in memory.parts:
        made.add_row(name, show_size(size), f"{size / memory.hbm_bytes:.1%}")
    if not fits and memory.least_pages is not None:
        made.add_row("KV pages, at least", show_size(memory.least_pages), "")
    made.add_row("of", show_size(memory.hbm_bytes), "")


def _add_steps(made: Table, decode: StepPlan, prefill: StepPlan) -> None:
    steps = (decode, prefill)
    made.add_row("[bold]a step[/bold]", "[bold]decode[/bold]", "[bold]prefill[/bold]")
    made.add_row("sequences", *(f"{step.load.num_seqs:,}" for step in steps))
    made.add_row("tokens of each", *(f"{step.load.context:,}" for step in steps))
    made.add_row("weights, KV, logits", *(show_size(step.work.num_bytes) for step in steps))
    made.add_row("  at the bandwidth", *(_ms(step.times.memory_s) for step in steps))
    made.add_row("operations", *(_operations(step.work.num_operations) for step in steps))
    if all(step.compiled is not None for step in steps):
        made.add_row("  as the compiler counts", *map(_compiled_operations, steps))
    made.add_row("  at the peak", *(_ms(step.times.compute_s) for step in steps))
    for kind in _kinds(steps):
        made.add_row(kind, *(_collectives(step.work.collectives, kind) for step in steps))
    made.add_row("  over the links", *(_ms(step.times.links_s) for step in steps))
    made.add_row("[bold]least time[/bold]", *(_ms(step.times.least_s) for step in steps))
    made.add_row("  most of it", *(step.times.limit for step in steps))
    made.add_row("[bold]tokens a second[/bold]", *(f"{step.tokens_per_s:,.0f}" for step in steps))


def _compiled_operations(step: StepPlan) -> str:
    count = None if step.compiled is None else step.compiled.num_operations
    return "-" if count is None else _operations(count)


def _kinds(steps: Sequence[StepPlan]) -> list[str]:
    return list(dict.fromkeys(each.kind for step in steps for each in step.work.collectives))


def _collectives(found: Sequence[Collective], kind: str) -> str:
    own = [each for each in found if each.kind == kind]
    num_bytes = sum(each.num_bytes for each in own)
    return f"{sum(each.count for each in own)}, {show_size(num_bytes)}" if own else "-"


def _tokens(number: int) -> str:
    return f"{number:,} tokens"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _operations(number: float) -> str:
    return f"{number / 1e12:.3g} T"


def json_of(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: bytes, seconds, and operations as numbers."""
    return {
        "model": plan.model,
        "num_params": plan.num_params,
        "dtype": plan.dtype,
        "target": plan.hardware.name,
        "num_devices": plan.hardware.num_devices,
        "device": asdict(plan.hardware.chip),
        "mesh": plan.mesh.sizes(),
        "fits": plan.fits,
        "why_not_compiled": plan.why_not_compiled,
        "serving": _serving_json(plan.serving),
    }


def _serving_json(serving: ServingPlan) -> dict[str, Any]:
    memory = serving.memory
    return {
        "fits": serving.fits,
        "refusal": serving.refusal,
        "num_replicas": serving.num_replicas,
        "max_model_len": serving.max_model_len,
        "max_num_seqs": serving.max_num_seqs,
        "largest_batch": serving.largest_batch,
        "longest_context": serving.longest_context,
        "num_cache_tokens": serving.num_cache_tokens,
        "memory": {
            "hbm_bytes": memory.hbm_bytes,
            "parts": dict(memory.parts),
            "used_bytes": memory.used_bytes,
            "missing_bytes": memory.missing_bytes,
        },
        "decode": None if serving.decode is None else _step_json(serving.decode),
        "prefill": None if serving.prefill is None else _step_json(serving.prefill),
    }


def _step_json(step: StepPlan) -> dict[str, Any]:
    return {
        **asdict(step),
        "times": {**asdict(step.times), "least_s": step.times.least_s, "limit": step.times.limit},
    }
