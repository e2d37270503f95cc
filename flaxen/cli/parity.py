"""`flaxen parity`: checks that trainer and server compute the same bits."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flaxen.cli.adapters import AdapterOptions
from flaxen.cli.cpu import Cpu, announce, backend_name
from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions, ModelsDirOptions, find_places
from flaxen.cli.options import ModelArgument, ModelOptions
from flaxen.cli.prompts import read_lines
from flaxen.parity.prompts import check_prompts, own_prompts, prompt_room

if TYPE_CHECKING:
    from flaxen.definitions.definition import Definition
    from flaxen.parity.compare import Compared
    from flaxen.weights.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """The tokens to compare, and how the result is printed."""

    prompts_file: Path | None = option(
        None,
        metavar="FILE",
        help="A file with one prompt a line; - reads them from the standard input.",
        show_default="six short texts",
    )
    max_tokens: int = option(24, min=1, help="Tokens generated after a prompt.")
    as_json: bool = option(False, "--json", help="Print one JSON object.")


def parity(
    model: ModelArgument,
    options: ParityOptions,
    adapter: AdapterOptions,
    model_options: ModelOptions,
    models: ModelsDirOptions,
    machine: MachineOptions,
) -> None:
    """Count the log-probabilities in which training and serving differ; exit with 1 if any do."""
    texts = None if options.prompts_file is None else read_lines(options.prompts_file, sys.stdin)
    cpu = machine.set_up()
    base, directory = adapter.beside(model, find_places(models, machine))
    args = {
        "model": base,
        "dtype": model_options.dtype,
        "impl": model_options.impl,
        "definition": model_options.definition,
        "quantization": model_options.quantization,
        "offline": machine.offline,
        "models_dir": models.models_dir,
        "device": machine.device,
        "backend": backend_name(),
    }
    with Console(stderr=True).status("training and serving the same tokens"):
        found, other = _compare(args, directory, texts, options)
    announce(cpu)
    if options.as_json:
        print(json.dumps(_as_json(model, cpu, found, other)))
    else:
        _show(found, other)
    if num_differing := sum(each.num_differing for each in found):
        raise SystemExit(
            f"error: {num_differing} log-probabilities of the server are not the trainer's"
            + (": without the C++ kernels they agree to rounding only" if cpu.isa == "xla" else "")
        )


def _compare(
    args: dict[str, Any],
    adapter: Path | None,
    texts: list[str] | None,
    options: ParityOptions,
) -> tuple[list[Compared], Compared | None]:
    """Compares with each way of the server, and with transformers if it is installed."""
    from flaxen.build import open_named
    from flaxen.engine_args import EngineArgs
    from flaxen.parity.compare import compare, contrast, has_transformers
    from flaxen.weights.adapters.peft import load_adapter
    from flaxen.weights.checkpoint import Checkpoint

    opened = open_named(EngineArgs(**args)).generator
    if not isinstance(opened, Checkpoint):
        args = args | {"model": opened, "definition": None}
    prompts = _prompts(opened, texts, options.max_tokens)
    beside = load_adapter(adapter, opened.model) if adapter else None
    found = compare(args, prompts, options.max_tokens, beside)
    other = None
    if isinstance(opened, Checkpoint) and beside is None and has_transformers():
        other = contrast(args, prompts, opened)
    return found, other


def _prompts(
    opened: Checkpoint | Definition, texts: list[str] | None, num_outputs: int
) -> Sequence[tuple[int, ...]]:
    """The token ids of the user's prompts, or of our own."""
    encode = opened.make_tokenizer().encode
    room = prompt_room(opened.model.max_position, num_outputs)
    if texts is None:
        return own_prompts(encode, room=room, vocab_size=opened.model.vocab_size)
    prompts = [tuple(encode(text)) for text in texts]
    check_prompts(prompts, room)
    return prompts


def _as_json(model: str, cpu: Cpu, found: list[Compared], other: Compared | None) -> dict[str, Any]:
    return {
        "model": model,
        "isa": cpu.isa,
        "num_differing": sum(each.num_differing for each in found),
        "ways": [asdict(each) for each in found],
        "contrast": other and asdict(other),
    }


def _show(found: list[Compared], other: Compared | None) -> None:
    table = Table(title="log-probabilities of the same tokens", caption_justify="left")
    table.add_column("by", no_wrap=True)
    for column in ("tokens", "trainer's mean", "its mean", "differ in any bit", "largest gap"):
        table.add_column(column, justify="right")
    for each in found:
        table.add_row(*_cells(each))
    if other is not None:
        table.caption = (
            "The last row is the peers' way, two implementations of one model: the same weights, "
            "in the same dtype."
        )
        table.add_section()
        table.add_row(*_cells(other))
    Console().print(table)
    num_tokens = sum(each.num_tokens for each in found)
    num_differing = sum(each.num_differing for each in found)
    print(f"parity: {num_differing} of {num_tokens} log-probabilities differ")


def _cells(each: Compared) -> tuple[str, ...]:
    means = (f"{mean:.6f}" for mean in (each.trainer_mean, each.mean))
    counts = (str(each.num_differing), f"{each.max_difference:.2g}")
    return each.way, str(each.num_tokens), *means, *counts
