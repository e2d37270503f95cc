"""`flaxen generate`: continues prompts in this process, all in one batch."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flaxen.cli import options
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.progress import show_progress

if TYPE_CHECKING:
    from flaxen.outputs import RequestOutput


def generate(
    model: options.Model,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="A prompt to continue; may be given several times."),
    ] = None,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts-file",
            metavar="FILE",
            help="A file with one prompt a line; - reads them from the standard input.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a prompt, on a line of its own.")
    ] = False,
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    sampling_seed: Annotated[int | None, options.sampling_seed("from --seed")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="Text that ends an answer; may be given several times.",
            rich_help_panel=options.SAMPLING_PANEL,
        ),
    ] = None,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = 64,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 512,
    page_size: options.PageSize = 16,
    kv_cache_size: options.KvCacheSize = None,
    prefix_caching: options.PrefixCaching = True,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    compile_cache: options.CompileCache = None,
    compile_size: options.CompileSize = None,
    offline: options.Offline = False,
) -> None:
    """Continue prompts, and print what the model adds to them."""
    prompts = read_prompts(prompt or [], prompts_file)

    from flaxen.llm import LLM
    from flaxen.protocol import SamplingParams

    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=sampling_seed,
        stop=tuple(stop or ()),
    )
    args = options.engine_args(
        model,
        compile_cache,
        dtype=dtype,
        impl=impl,
        quantization=quantization,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        page_size=page_size,
        kv_cache_bytes=kv_cache_size,
        enable_prefix_caching=prefix_caching,
        seed=seed,
        compile_sizes=tuple(compile_size or ()),
        offline=offline,
    )
    cpu = set_up_cpu(threads)
    console = Console(stderr=True)
    with show_progress(console) as on_progress:
        fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}
        fields["model"] = find_definition(model, checkpoint) or model
        llm = LLM(**fields, on_progress=on_progress)
    announce(cpu)
    outputs = llm.generate(prompts, sampling, use_tqdm=console.is_terminal)
    for output in outputs:
        print(_as_json(output) if as_json else _as_text(output, len(outputs) > 1))
    check_outputs(outputs)


def read_prompts(given: list[str], file: Path | None) -> list[str]:
    """Returns the prompts of the command line, or those of the file's lines that are not blank.

    Raises:
      ValueError: neither is given, both are, or a prompt is empty.
      OSError: the file can't be read.
    """
    if bool(given) == (file is not None):
        raise ValueError("give prompts by --prompt TEXT or by --prompts-file FILE, one of the two")
    if file is None:
        prompts = given
    else:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts or not all(prompts):
        raise ValueError(f"{'a prompt' if file is None else file} is empty: write at least a word")
    return prompts


def check_outputs(outputs: list[RequestOutput]) -> None:
    """Ends the command if prompts failed, once those that did not are printed.

    Raises:
      SystemExit: with how many failed, and why the first did.
    """
    errors = [output.outputs[0].error for output in outputs if output.outputs[0].error]
    if errors:
        raise SystemExit(
            f"error: {len(errors)} of {len(outputs)} prompts failed, first: {errors[0]}"
        )


def _as_json(output: RequestOutput) -> str:
    completion = output.outputs[0]
    return json.dumps(
        {
            "prompt": output.prompt,
            "text": completion.text,
            "num_prompt_tokens": len(output.prompt_token_ids),
            "num_output_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
    )


def _as_text(output: RequestOutput, is_one_of_many: bool) -> str:
    text = output.outputs[0].text
    return f"=== {output.prompt}\n{text}\n" if is_one_of_many else text
