"""`flaxen parity`: whether the trainer and the server compute the same bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flaxen.cli import options
from flaxen.cli.cpu import announce, backend_name, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.generate import read_prompts
from flaxen.cli.parity.prompts import check_prompts, own_prompts, prompt_room

if TYPE_CHECKING:
    from flaxen.cli.parity.run import Compared


def parity(
    model: options.Model,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts-file",
            metavar="FILE",
            help="A file with one prompt a line; - reads them from the standard input.",
            show_default="six short texts",
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated after a prompt.")] = 24,
    adapter: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A LoRA adapter's directory, as PEFT writes it: trained and served with.",
            rich_help_panel=options.MODEL_PANEL,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    threads: options.Threads = None,
    compile_cache: options.CompileCache = None,
    offline: options.Offline = False,
) -> None:
    """Count the log-probabilities in which training and serving differ; exit with 1 if any do."""
    texts = None if prompts_file is None else read_prompts([], prompts_file)

    from flaxen.build import EngineArgs, open_model, use_compile_cache
    from flaxen.cli.parity import run as parity_run
    from flaxen.weights.adapters.peft import load_adapter
    from flaxen.weights.checkpoint import Checkpoint

    use_compile_cache(compile_cache or options.default_cache())
    cpu = set_up_cpu(threads)
    args: dict[str, Any] = {"model": model, "dtype": dtype, "quantization": quantization}
    args |= {"impl": impl, "offline": offline, "backend": backend_name()}
    with Console(stderr=True).status("training and serving the same tokens"):
        opened = find_definition(model, checkpoint) or open_model(EngineArgs(**args))
        if not isinstance(opened, Checkpoint):
            args["model"] = opened
        tokenizer = opened.make_tokenizer()
        room = prompt_room(opened.model.max_position, max_tokens)
        if texts is None:
            vocab_size = opened.model.vocab_size
            prompts = own_prompts(tokenizer.encode, room=room, vocab_size=vocab_size)
        else:
            prompts = [tuple(tokenizer.encode(text)) for text in texts]
            check_prompts(prompts, room)
        beside = load_adapter(adapter, opened.model) if adapter else None
        found = parity_run.compare(args, prompts, max_tokens, beside)
        other = None
        if isinstance(opened, Checkpoint) and beside is None and parity_run.has_transformers():
            other = parity_run.contrast(args, prompts, opened)
    announce(cpu)
    num_differing = sum(each.num_differing for each in found)
    if as_json:
        result = {
            "model": model,
            "isa": cpu.isa,
            "num_differing": num_differing,
            "ways": [dataclasses.asdict(each) for each in found],
            "contrast": other and dataclasses.asdict(other),
        }
        print(json.dumps(result))
    else:
        _show(found, other)
    if num_differing:
        raise SystemExit(
            f"error: {num_differing} log-probabilities of the server are not the trainer's"
            + (": without the C++ kernels they agree to rounding only" if cpu.isa == "xla" else "")
        )


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
