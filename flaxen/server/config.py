"""The server's limits and keys, checked once. Deliberately does not know flags or files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flaxen.output_parsers.table import choose_formats
from flaxen.text.chat import RESERVED_VARIABLES

_PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The configuration of the HTTP server.

    Raises:
      ValueError: a limit is out of range, a name or key is empty or has invalid characters, or
          there is no parser of a name.
    """

    api_keys: tuple[str, ...] = ()  # any of these keys gives access; () requires none
    served_model_names: tuple[str, ...] = ()  # the first is the main one; () is the engine's name
    any_model_name: bool = False  # whether names that are not served mean the main model
    cors_origins: tuple[str, ...] = ()  # origins whose pages may call the server; "*" for any
    root_path: str = ""  # the path under which a proxy serves all of this, such as "/llm"
    max_body_bytes: int = 4 * 2**20  # the most bytes of a request's JSON
    max_prompts: int = 128  # the most prompts in one completions request
    max_n: int = 128  # the most sequences for each prompt
    max_sequences: int = 1024  # prompts x n of one request; above the engine's queue: always 429
    max_messages: int = 2048  # the most messages of a chat
    max_stop: int = 16  # the most stop strings
    max_logprobs: int = 20  # the most top logprobs; the engine's own limit also applies
    body_timeout_s: float = 60.0  # seconds in which a request's body must arrive
    tool_call_parser: str | None = None  # how the model writes calls; None: as its template says
    reasoning_parser: str | None = None  # likewise, for reasoning
    # Variables of the chat template where a request does not set them.
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    request_timeout_s: float | None = 3600.0  # seconds from submission to the last token
    dev_mode: bool = False  # whether there are routes that change the server for everybody
    metrics_prefix: str = "flaxen"  # what the names of metrics begin with
    tokens_as_ids: bool = False  # whether logprobs name tokens as "token_id:7" where not asked
    force_usage: bool = False  # whether all chunks of streams tell the usage, also where not asked
    drain_s: float = 30.0  # seconds that open requests get to finish after a signal

    def __post_init__(self) -> None:
        choose_formats(
            None, tool_parser=self.tool_call_parser, reasoning_parser=self.reasoning_parser
        )
        for name in self.template_kwargs:
            if name in RESERVED_VARIABLES:
                raise ValueError(
                    f"the defaults of the chat template may not set {name!r}: the server sets it"
                )
        for name in ("api_keys", "served_model_names", "cors_origins"):
            values = getattr(self, name)
            if isinstance(values, str) or not all(isinstance(value, str) for value in values):
                raise ValueError(f"{name} must be a tuple of strings")
            object.__setattr__(self, name, tuple(values))
        for key in self.api_keys:
            # The message must not contain the key, because it may be logged.
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    "an api key must be printable ASCII without spaces, as it travels in a header; "
                    f"one of {len(key)} characters is not"
                )
        for value in (*self.served_model_names, *self.cors_origins):
            if not value.strip() or not value.isprintable():
                raise ValueError(
                    f"a served model name or CORS origin must be printable text, got {value!r}"
                )
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(
                "root_path must be a path such as /llm, without a slash at its end, "
                f"got {self.root_path!r}"
            )
        if not _PREFIX.fullmatch(self.metrics_prefix):
            raise ValueError(
                "metrics_prefix must be letters, digits and _, such as vllm, "
                f"got {self.metrics_prefix!r}"
            )
        for name, low in (
            ("max_body_bytes", 1),
            ("max_prompts", 1),
            ("max_n", 1),
            ("max_sequences", 1),
            ("max_messages", 1),
            ("max_stop", 0),
            ("max_logprobs", 0),
        ):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < low:
                raise ValueError(f"{name} must be a whole number of at least {low}, got {count!r}")
        if not 0 < self.body_timeout_s < math.inf:
            raise ValueError(f"body_timeout_s must be above 0 seconds, got {self.body_timeout_s}")
        if self.request_timeout_s is not None and not 0 < self.request_timeout_s < math.inf:
            raise ValueError(
                f"request_timeout_s must be above 0 seconds, got {self.request_timeout_s}; "
                "None sets no limit"
            )
        if not 0 <= self.drain_s < math.inf:
            raise ValueError(f"drain_s must be at least 0 seconds, got {self.drain_s}")
