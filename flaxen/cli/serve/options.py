"""The option groups of `flaxen serve` for its server, a request's limits and its engine.

Imports the engine and the web framework only when they are needed, so that --help is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flaxen.cli import panels
from flaxen.cli.groups import option
from flaxen.cli.sizes import parse_size, parse_size_option
from flaxen.protocol import LogprobsMode
from flaxen.serving.logs import LogFormat, LogLevel

_SERVER = "Server"
_server_option = partial(option, rich_help_panel=_SERVER)
_engine_option = partial(option, rich_help_panel=panels.ENGINE)
_size_option = partial(_engine_option, parser=parse_size_option, metavar="SIZE")
_limit_option = partial(option, rich_help_panel="Limits of a request")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The server's address, access, log and shutdown.

    Raises:
      ValueError: two options contradict each other.
    """

    host: str = _server_option(
        "127.0.0.1", help="Address to listen on; 0.0.0.0 is reached from other machines."
    )
    port: int = _server_option(
        8000, min=0, max=65535, help="Port to listen on; 0 takes a free one."
    )
    uds: Path | None = _server_option(
        None, metavar="PATH", help="Unix socket to listen on, in place of the host and port."
    )
    api_keys: list[str] = _server_option(
        [],
        "--api-key",
        envvar="FLAXEN_API_KEY",
        help="Key that clients must send; may be given several times (in the variable: "
        "separated by spaces).",
        show_default="none is asked for",
    )
    served_model_names: list[str] = _server_option(
        [],
        "--served-model-name",
        help="Name that clients call the model by; may be given several times.",
        show_default="the model's own",
    )
    any_model_name: bool = _server_option(
        False,
        "--skip-model-name-validation",
        help="Answer requests for a model that is not served by the one that is, as llama.cpp "
        "does, rather than with 404; answers name the served model.",
    )
    cors_origins: list[str] = _server_option(
        [],
        "--cors-origin",
        help="Web origin whose pages may call the server, * for any; may be given several times.",
        show_default="none",
    )
    root_path: str = _server_option(
        "",
        metavar="PATH",
        help="Path under which a proxy serves all of this, such as /llm; the proxy may cut it "
        "off or leave it.",
        show_default="none",
    )
    tokens_as_ids: bool = _server_option(
        False,
        "--return-tokens-as-token-ids",
        help="Name tokens in logprobs as token_id:7, unless a request says otherwise.",
    )
    force_usage: bool = _server_option(
        False,
        "--enable-force-include-usage",
        help="Put the usage into every chunk of every stream, whatever is asked for.",
    )
    metrics_prefix: str = _server_option(
        "flaxen",
        metavar="NAME",
        help="What the names in /metrics begin with; vllm for dashboards that were made for it.",
    )
    dev_mode: bool = _server_option(
        False,
        "--server-dev-mode",
        help="Add routes that change the server for everybody: /reset_prefix_cache, /pause, "
        "/sleep, /update_weights_from_disk and others.",
    )
    drain_s: float = _server_option(
        30.0, min=0.0, help="Seconds that open requests get to finish after SIGTERM or Ctrl-C."
    )
    log_level: LogLevel | None = _server_option(
        None,
        help="Least severity of the lines of the log: info has one for each request, debug "
        "those of /health and /metrics too.",
        show_default="info",
    )
    log_format: LogFormat = _server_option(
        LogFormat.TEXT,
        help="Format of everything that is written to stderr: text, or json for one object a line.",
    )
    quiet: bool = _server_option(
        False, "--quiet", "-q", help="Write only warnings, errors, and the line with the address."
    )

    def __post_init__(self) -> None:
        if self.quiet and self.log_level is not None:
            raise ValueError(
                f"--quiet and --log-level {self.log_level} contradict each other, as --quiet is "
                "the level warning: give one of them"
            )

    @property
    def least_level(self) -> LogLevel:
        """The least severity of the lines of the log."""
        if self.quiet:
            return LogLevel.WARNING
        return LogLevel.INFO if self.log_level is None else self.log_level

    @property
    def socket_path(self) -> str | None:
        """The Unix socket to listen on, if any."""
        return None if self.uds is None else str(self.uds)


@dataclass(frozen=True, kw_only=True)
class RequestLimitOptions:
    """The limits of one request."""

    max_body_bytes: int = _limit_option(
        parse_size("4MiB"),
        "--max-body-size",
        parser=parse_size_option,
        metavar="SIZE",
        help="Largest body of a request.",
        show_default="4MiB",
    )
    body_timeout_s: float = _limit_option(
        60.0, help="Seconds in which the body of a request must arrive."
    )
    request_timeout_s: float = _limit_option(
        3600.0, min=0.0, help="Seconds from a request's arrival to its last token; 0 sets no limit."
    )
    max_prompts: int = _limit_option(128, min=1, help="Most prompts in one completions request.")
    max_n: int = _limit_option(128, min=1, help="Most answers for each prompt: the largest n.")
    max_sequences: int = _limit_option(
        1024,
        "--max-sequences-per-request",
        min=1,
        help="Most prompts times answers; never more than --max-waiting and --max-num-seqs "
        "together hold.",
    )
    max_messages: int = _limit_option(2048, min=1, help="Most messages in one chat.")
    max_stop: int = _limit_option(16, min=0, help="Most stop strings.")
    max_logprobs: int = _limit_option(
        20, min=0, help="Most of the likeliest tokens that a request may ask for beside each token."
    )


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """The options of an engine that several clients share."""

    max_waiting: int = _server_option(
        4096,
        min=1,
        help="Most sequences that may wait for their turn; beyond them requests are refused "
        "with status 429.",
    )
    target_itl_ms: float | None = _engine_option(
        None,
        min=0,
        help="Milliseconds wanted between two tokens of an answer: a step computes fewer "
        "prompt tokens where it would take longer, but takes twice the time of one without "
        "prompts if need be. 0: --max-num-batched-tokens alone decides. Not given: three "
        "times what a step without prompts takes here, at least 40.",
    )
    max_unread_bytes: int = _size_option(
        parse_size("256MiB"),
        "--max-unread-size",
        help="Memory for what slow clients have not read of their answers, all together; "
        "beyond it the request whose client is furthest behind is ended.",
        show_default="256MiB",
    )
    kv_offload_bytes: int = _size_option(
        0,
        "--kv-offload-bytes",
        help="Memory of the host for pages of the KV cache that it has no room for, as 8GiB; "
        "least recently used ones go first.",
        show_default="none is used",
    )
    kv_offload_dir: Path | None = _engine_option(
        None,
        metavar="PATH",
        help="Directory for pages of the KV cache, which a prompt finds after a restart too, "
        "verified. They tell what the prompts were: only this user can read them.",
        show_default="none is used",
    )
    kv_offload_dir_bytes: int | None = _size_option(
        None,
        "--kv-offload-dir-bytes",
        help="Most bytes of the files in --kv-offload-dir.",
        show_default="10GiB",
    )
    kv_events_config: str | None = _engine_option(
        None,
        metavar="JSON",
        help="Publish which prefixes are in the KV cache, for routers: vLLM's object, as "
        '{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"} (pip install '
        "flaxen\\[kv-events]).",
        show_default="nothing is published",
    )
    logprobs_mode: LogprobsMode = _engine_option(
        LogprobsMode.RAW_LOGPROBS,
        help="What logprobs of answers are: of the model's own distribution (raw), or of what "
        "is sampled from, after penalties, temperature and filters (processed); as "
        "log-probabilities, or as logits.",
    )
    seed: int = _engine_option(
        0,
        help="Seed of the sampling of requests that give none of their own.",
    )
