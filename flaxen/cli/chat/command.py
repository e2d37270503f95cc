"""`flaxen chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import importlib
import secrets
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from flaxen.cli import options
from flaxen.cli.chat.http import Answer, http_answer
from flaxen.cli.chat.loop import HELP, chat_loop
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.interrupt import unwind_first
from flaxen.cli.progress import show_progress


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help=f"{options.MODEL_HELP} With --url: the server's name for the model.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running OpenAI-compatible server to talk to, as http://127.0.0.1:8000; the "
            "options of the model and the engine are then the server's own.",
            show_default="in this process",
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="FLAXEN_API_KEY", help="Key to send to the server.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="System message: how the model should behave.")
    ] = None,
    max_tokens: options.MaxTokens = 512,
    temperature: options.Temperature = 0.7,
    top_p: options.TopP = 1.0,
    sampling_seed: Annotated[int | None, options.sampling_seed("random")] = None,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    chat_template: options.ChatTemplate = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_size: options.KvCacheSize = None,
    threads: options.Threads = None,
    compile_cache: options.CompileCache = None,
    offline: options.Offline = False,
) -> None:
    """Talk to a model: /reset forgets, /exit ends, Ctrl-C stops an answer, a second one ends."""
    sampling: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
    }
    if sampling_seed is not None:
        sampling["seed"] = sampling_seed
    console = Console(highlight=False)
    answer: Answer
    if url is not None:
        formats, sizes = (dtype, impl, quantization), (max_model_len, kv_cache_size, threads)
        is_default = formats == ("auto", "auto", "auto") and sizes == (None, None, None)
        if not is_default or checkpoint is not None or chat_template is not None:
            raise ValueError(
                "--dtype, --impl, --quantization, --checkpoint, --chat-template, --max-model-len, "
                "--kv-cache-size and --threads are the server's to choose: leave them out with "
                "--url"
            )
        model, answer = http_answer(url, model, api_key, sampling)
    elif model is None:
        raise ValueError("name a MODEL to run here, or give the --url of a running server")
    else:
        from flaxen.build import build
        from flaxen.cli.chat.local import local_answer
        from flaxen.protocol import SamplingParams

        args = options.engine_args(
            model,
            compile_cache,
            dtype=dtype,
            impl=impl,
            quantization=quantization,
            max_model_len=max_model_len,
            kv_cache_bytes=kv_cache_size,
            max_num_seqs=1,
            chat_template=chat_template,
            seed=secrets.randbits(62),  # of the answers without --sampling-seed
            offline=offline,
        )
        cpu = set_up_cpu(threads)
        with show_progress(Console(stderr=True)) as on_progress:
            parts = build(args, on_progress, definition=find_definition(model, checkpoint))
        announce(cpu)
        answer = local_answer(parts.engine, parts.tokenizer, SamplingParams(**sampling))
    if console.is_terminal:
        console.print(f"[bold]{escape(model or '')}[/]  [dim]{HELP}[/]")
        with contextlib.suppress(ImportError):  # not in every Python
            importlib.import_module("readline")  # gives input() a history and editing keys
    prompt = "> " if sys.stdin.isatty() else ""

    def read() -> str:
        return unwind_first(lambda: input(prompt))

    chat_loop(answer, system, read, lambda text: print(text, end="", flush=True))
