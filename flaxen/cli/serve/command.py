"""`flaxen serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import contextlib
import enum
import gc
import logging
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flaxen.cli import options
from flaxen.cli.cpu import announce, set_up_cpu
from flaxen.cli.definitions import find_definition
from flaxen.cli.progress import show_progress
from flaxen.cli.serve import fine_tuning
from flaxen.cli.serve.adapters import LoraOptions
from flaxen.cli.sizes import parse_size

SERVER_PANEL = "Server"
LIMITS_PANEL = "Limits of a request"


class LogLevel(enum.StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def serve(
    model: options.Model,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 is reached from other machines.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 takes a free one.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = 8000,
    uds: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Unix socket to listen on, in place of the host and port.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="FLAXEN_API_KEY",
            help="Key that clients must send; may be given several times (in the variable: "
            "separated by spaces).",
            show_default="none is asked for",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that clients call the model by; may be given several times.",
            show_default="the model's own",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Web origin whose pages may call the server, * for any; may be given several "
            "times.",
            show_default="none",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds that open requests get to finish after SIGTERM or Ctrl-C.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = 30.0,
    log_level: Annotated[
        LogLevel,
        typer.Option(help="Least weight of what is logged.", rich_help_panel=SERVER_PANEL),
    ] = LogLevel.INFO,
    max_body_size: Annotated[
        int,
        typer.Option(
            parser=options.size,
            metavar="SIZE",
            help="Largest body of a request.",
            show_default="4MiB",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = parse_size("4MiB"),
    body_timeout_s: Annotated[
        float,
        typer.Option(
            help="Seconds in which the body of a request must arrive.",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = 60.0,
    request_timeout_s: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds from a request's arrival to its last token; 0 sets no limit.",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = 3600.0,
    max_prompts: Annotated[
        int,
        typer.Option(
            min=1, help="Prompts in one completions request.", rich_help_panel=LIMITS_PANEL
        ),
    ] = 128,
    max_n: Annotated[
        int,
        typer.Option(min=1, help="Answers for each prompt.", rich_help_panel=LIMITS_PANEL),
    ] = 128,
    max_sequences_per_request: Annotated[
        int,
        typer.Option(
            min=1,
            help="Prompts times answers; never more than --max-waiting and --max-num-seqs together "
            "hold.",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = 1024,
    max_messages: Annotated[
        int, typer.Option(min=1, help="Messages in one chat.", rich_help_panel=LIMITS_PANEL)
    ] = 2048,
    max_stop: Annotated[
        int, typer.Option(min=0, help="Stop strings.", rich_help_panel=LIMITS_PANEL)
    ] = 16,
    max_waiting: Annotated[
        int,
        typer.Option(
            min=1,
            help="Sequences that may wait for their turn; beyond them requests are refused with "
            "status 429.",
            rich_help_panel=SERVER_PANEL,
        ),
    ] = 4096,
    max_logprobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Likeliest tokens that may be asked for beside each token.",
            rich_help_panel=LIMITS_PANEL,
        ),
    ] = 20,
    dtype: options.Dtype = "auto",
    impl: options.Impl = "auto",
    quantization: options.Quantization = "auto",
    checkpoint: options.Checkpoint = None,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = 64,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 512,
    target_itl_ms: options.TargetItlMs = None,
    page_size: options.PageSize = 16,
    kv_cache_size: options.KvCacheSize = None,
    max_unread_size: options.MaxUnreadSize = 2**28,
    prefix_caching: options.PrefixCaching = True,
    threads: options.Threads = None,
    seed: options.Seed = 0,
    compile_cache: options.CompileCache = None,
    compile_size: options.CompileSize = None,
    offline: options.Offline = False,
    generation_config: options.GenerationConfig = "auto",
    chat_template: options.ChatTemplate = None,
    enable_lora: options.EnableLora = False,
    max_loras: options.MaxLoras = 8,
    max_lora_rank: options.MaxLoraRank = 16,
    max_cpu_loras: options.MaxCpuLoras = None,
    lora_modules: options.LoraModules = None,
    allow_runtime_lora_updating: options.AllowLoraUpdating = False,
    lora_dir: options.LoraDir = None,
    data_dir: fine_tuning.DataDir = None,
    database_url: fine_tuning.DatabaseUrl = None,
    fine_tuning_share: fine_tuning.Share = fine_tuning.DEFAULT_SHARE,
    max_file_size: fine_tuning.MaxFileSize = fine_tuning.DEFAULT_FILE_BYTES,
    max_files_size: fine_tuning.MaxFilesSize = fine_tuning.DEFAULT_TOTAL_BYTES,
) -> None:
    """Serve a model over the OpenAI API, until SIGTERM or Ctrl-C.

    /health answers once the weights are read and what a single request needs is compiled; what
    many at once need is compiled while the server is idle, or when they first come. All of it is
    kept for the next start. Then try: curl http://127.0.0.1:8000/v1/models
    """
    # The cheap checks come first: a bad option must not wait for the weights.
    from flaxen.server.config import ServerConfig

    server_config = ServerConfig(
        api_keys=tuple(api_key or ()),
        served_model_names=tuple(served_model_name or ()),
        cors_origins=tuple(cors_origin or ()),
        max_body_bytes=max_body_size,
        max_prompts=max_prompts,
        max_n=max_n,
        # More than the engine holds would be refused as if there were only no room right now.
        max_sequences=min(max_sequences_per_request, max_waiting + max_num_seqs),
        max_messages=max_messages,
        max_stop=max_stop,
        max_logprobs=max_logprobs,
        body_timeout_s=body_timeout_s,
        request_timeout_s=request_timeout_s or None,
        drain_s=drain_s,
    )
    lora = LoraOptions(
        enable=enable_lora or data_dir is not None,  # what comes of a job is an adapter
        max_loras=max_loras,
        max_lora_rank=max_lora_rank,
        max_cpu_loras=max_cpu_loras,
        modules=tuple(lora_modules or ()),
        allow_updating=allow_runtime_lora_updating,
        directory=lora_dir,
    )
    tuning = fine_tuning.FineTuningOptions(
        data_dir=data_dir,
        database_url=database_url,
        share=fine_tuning_share,
        max_file_bytes=max_file_size,
        max_total_bytes=max_files_size,
    )
    console = Console(stderr=True)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("flaxen").setLevel(log_level.upper())  # of others: warnings
    from flaxen.server.run import listen, run

    socket_path = None if uds is None else str(uds)
    listen(host, port, socket_path).close()  # fails now, not after the weights are read
    kept = contextlib.ExitStack()
    stores = kept.enter_context(tuning.opened(max_lora_rank))  # so do these
    args = options.engine_args(
        model,
        compile_cache,
        dtype=dtype,
        impl=impl,
        quantization=quantization,
        max_model_len=max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        target_itl_ms=target_itl_ms,
        page_size=page_size,
        kv_cache_bytes=kv_cache_size,
        enable_prefix_caching=prefix_caching,
        seed=seed,
        max_logprobs=max_logprobs,
        max_waiting=max_waiting,
        max_unread_bytes=max_unread_size,
        compile_sizes=tuple(compile_size or ()),
        offline=offline,
        generation_config=generation_config,
        chat_template=chat_template,
    )
    cpu = set_up_cpu(threads)

    from flaxen.build import build
    from flaxen.engine.async_engine import AsyncEngine
    from flaxen.server.app import create_app

    start_s = time.perf_counter()
    with show_progress(console) as on_progress:
        # AsyncEngine compiles the rest.
        parts = build(
            args,
            on_progress,
            compile_all=False,
            lora=lora.limits(),
            definition=find_definition(model, checkpoint),
        )
    announce(cpu)
    gc.freeze()  # what lives as long as the process is not looked at again
    names = server_config.served_model_names or (parts.info.name,)

    def on_ready(url: str) -> None:
        elapsed_s = time.perf_counter() - start_s
        # As it is, on one line: programs that start a server read the URL from it.
        console.out(f"{names[0]} is served on {url} (ready in {elapsed_s:.1f} s)", highlight=False)

    files = lora.files(parts.model)
    with kept:
        engine = kept.enter_context(AsyncEngine(parts.engine))
        lora.load_modules(engine, parts.model, names)
        app = create_app(engine, parts.tokenizer, server_config, adapter_files=files)
        kept.enter_context(tuning.running(stores, app, server_config, engine, parts))
        code = run(
            app, engine, host=host, port=port, uds=socket_path, drain_s=drain_s, on_ready=on_ready
        )
    raise typer.Exit(code)
