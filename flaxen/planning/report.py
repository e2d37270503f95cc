"""A plan as a table for readers. Deliberately does not know how it was made."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from flaxen.planning.collectives import Collective
from flaxen.planning.memory import Compiled, Memory
from flaxen.planning.plan import Plan
from flaxen.planning.roofline import Times, Work
from flaxen.planning.serving import ServingPlan, StepPlan
from flaxen.planning.training import TrainingPlan


def table(plan: Plan) -> Table:
    """The plan as one table: the memory of a device, what fits into it, and the steps."""
    made = Table(title=_title(plan), show_header=False, title_justify="left")
    made.add_column(no_wrap=True)
    made.add_column(justify="right")
    made.add_column(justify="right")
    if plan.serving is not None:
        _add_serving(made, plan.serving)
    if plan.training is not None:
        made.add_section()
        _add_training(made, plan.training)
    return made


def lines_under(plan: Plan) -> list[str]:
    """The lines under the table: whether the plan fits, and where its figures come from."""
    found = []
    if plan.serving is not None:
        found += _verdict("Serving", plan.serving.memory, plan.serving.refusal, _SERVE_LESS)
    if plan.training is not None:
        found += _verdict("Training", plan.training.memory, plan.training.refusal, _TRAIN_LESS)
    if plan.why_not_compiled is not None:
        found.append(f"From shapes alone: {plan.why_not_compiled}.")
    elif seconds := _compile_seconds(plan):
        found.append(f"Compiled here for {plan.hardware.name}: {', '.join(seconds)}.")
    if plan.serving is not None and plan.serving.num_replicas > 1:
        found.append(
            f"The memory, and what it holds, are those of one of {plan.serving.num_replicas} data "
            "replicas; tokens a second are those of all."
        )
    found.append(
        "Times are the least that published figures allow; an engine needs more. Nothing ran."
    )
    return found


def _title(plan: Plan) -> str:
    size = f"{_count(plan.num_params)} parameters"
    is_asked = plan.quantization not in ("auto", "none")
    form = f"{plan.quantization} and {plan.dtype}" if is_asked else plan.dtype
    return f"{plan.model} ({size}, {form}) on {plan.hardware.name}, {plan.mesh}"


def _count(number: int) -> str:
    """A large number in billions, or in millions where it is less than one."""
    return f"{number / 1e9:.2f} B" if number >= 10**9 else f"{number / 1e6:.2f} M"


_SERVE_LESS = (
    "a shorter --max-model-len, fewer --max-num-seqs or --max-num-batched-tokens, --quantization "
    "int8"
)
_TRAIN_LESS = "a larger fsdp axis, --remat layer, fewer or shorter rows, --train lora"


def _verdict(what: str, memory: Memory, refusal: str | None, less: str) -> list[str]:
    if refusal is not None:
        return [f"{what} does not fit: {refusal}"]
    if memory.fits:
        left = _size(memory.hbm_bytes - memory.used_bytes)
        return [f"{what} fits: {left} of each device is left."]
    return [
        f"{what} does not fit: each device lacks {_size(memory.missing_bytes)}. Use a mesh "
        f"with a larger tensor axis, {less}, or devices with more memory."
    ]


def _compile_seconds(plan: Plan) -> list[str]:
    found: list[tuple[str, Compiled | None]] = []
    if plan.serving is not None:
        steps = {"decode": plan.serving.decode, "prefill": plan.serving.prefill}
        found += [(name, step.compiled) for name, step in steps.items() if step is not None]
    if plan.training is not None:
        found += zip(("forward and backward", "update"), plan.training.compiled, strict=False)
    return [f"{name} in {each.seconds:.0f} s" for name, each in found if each is not None]


def _add_serving(made: Table, serving: ServingPlan) -> None:
    _add_memory(made, "serving: each device", serving.memory)
    if serving.config is None or serving.decode is None or serving.prefill is None:
        assert serving.memory.least_pages is not None
        made.add_row("KV pages, at least", _size(serving.memory.least_pages), "")
        return
    made.add_section()
    made.add_row("[bold]it holds[/bold]", "", "")
    made.add_row("sequences at once", f"{serving.largest_batch:,}", _of(serving.max_model_len))
    made.add_row("longest sequence", _tokens(serving.longest_context), "")
    made.add_row("all KV pages", _tokens(serving.num_cache_tokens), "")
    made.add_section()
    steps = (serving.decode, serving.prefill)
    made.add_row("[bold]a step[/bold]", "[bold]decode[/bold]", "[bold]prefill[/bold]")
    made.add_row("sequences", *(f"{step.load.num_seqs:,}" for step in steps))
    made.add_row("tokens of each", *(f"{step.load.context:,}" for step in steps))
    made.add_row("weights, KV, logits", *(_size(step.work.num_bytes) for step in steps))
    _add_times(made, [step.work for step in steps], [step.times for step in steps], _counts(steps))
    made.add_row("[bold]tokens a second[/bold]", *(f"{step.tokens_per_s:,.0f}" for step in steps))


def _counts(steps: Sequence[StepPlan]) -> list[float | None]:
    return [None if step.compiled is None else step.compiled.num_operations for step in steps]


def _add_training(made: Table, training: TrainingPlan) -> None:
    args = training.args
    _add_memory(made, f"training ({args.method}): each device", training.memory)
    made.add_section()
    made.add_row("[bold]a step[/bold]", "[bold]training[/bold]", "")
    made.add_row("rows", f"{args.batch_size:,}", _of(args.sequence_length))
    made.add_row("weights, state", _size(training.work.num_bytes), "")
    counts = [each.num_operations for each in training.compiled]
    total = sum(each for each in counts if each is not None) if counts else None
    _add_times(made, [training.work], [training.times], [total])
    made.add_row("[bold]tokens a second[/bold]", f"{training.tokens_per_s:,.0f}", "")


def _add_memory(made: Table, title: str, memory: Memory) -> None:
    made.add_row(f"[bold]{title}[/bold]", "", "")
    for name, size in memory.parts:
        made.add_row(name, _size(size), f"{size / memory.hbm_bytes:.1%}")
    made.add_row("of", _size(memory.hbm_bytes), "")


def _add_times(
    made: Table, works: list[Work], times: list[Times], compiled_operations: list[float | None]
) -> None:
    """The rows that all steps have: what each limit asks for, and the sum."""
    made.add_row("  at the bandwidth", *(_ms(each.memory_s) for each in times))
    made.add_row("operations", *(_operations(each.num_operations) for each in works))
    if any(each is not None for each in compiled_operations):
        shown = ("-" if each is None else _operations(each) for each in compiled_operations)
        made.add_row("  as the compiler counts", *shown)
    made.add_row("  at the peak", *(_ms(each.compute_s) for each in times))
    for kind in dict.fromkeys(each.kind for work in works for each in work.collectives):
        made.add_row(kind, *(_collectives(work.collectives, kind) for work in works))
    made.add_row("  over the links", *(_ms(each.links_s) for each in times))
    made.add_row("[bold]least time[/bold]", *(_ms(each.least_s) for each in times))
    made.add_row("  most of it", *(each.limit for each in times))


def _collectives(found: Sequence[Collective], kind: str) -> str:
    own = [each for each in found if each.kind == kind]
    num_bytes = sum(each.num_bytes for each in own)
    return f"{sum(each.count for each in own):,}, {_size(num_bytes)}" if own else "-"


def _size(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _of(number: int) -> str:
    return f"of {_tokens(number)}"


def _tokens(number: int) -> str:
    return f"{number:,} tokens"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _operations(number: float) -> str:
    return f"{number / 1e12:.3g} T"
