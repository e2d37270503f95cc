"""The option group of `flaxen serve` for how a model writes tool calls and reasoning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer

from flaxen.cli.groups import option

_option = partial(option, rich_help_panel="Tools and reasoning")


def parse_object(text: str, example: str = '{"enable_thinking": false}') -> dict[str, Any]:
    """Parses a JSON object for typer.

    Raises:
      typer.BadParameter: it is none.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"give a JSON object such as {example}: {text}")
    return value


@dataclass(frozen=True, kw_only=True)
class ParserOptions:
    """The parsers of answers, by vLLM's names."""

    tool_call_parser: str | None = _option(
        None,
        metavar="NAME",
        help="How the model writes tool calls, such as hermes, llama3_json or mistral; a wrong "
        "name lists all.",
        show_default="as its chat template says",
    )
    reasoning_parser: str | None = _option(
        None,
        metavar="NAME",
        help="How the model writes its reasoning, such as qwen3 or deepseek_r1.",
        show_default="as its chat template says",
    )
    template_kwargs: dict[str, Any] | None = _option(
        None,
        "--default-chat-template-kwargs",
        parser=parse_object,
        metavar="JSON",
        help="Variables of the chat template for requests that do not set them, such as "
        '{"enable_thinking": false}.',
        show_default="none",
    )
    enable_auto_tool_choice: bool = _option(
        False,
        "--enable-auto-tool-choice",
        help="Accepted because vLLM needs it; here a model may call tools always.",
    )

    def check(self, num_models: int) -> None:
        """Checks what only a server with one model takes.

        Raises:
          ValueError: a parser is named for several models.
        """
        for name in ("tool_call_parser", "reasoning_parser"):
            if num_models > 1 and getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(
                    f"{option} belongs to one model: leave it out, as chat templates say it "
                    "usually, or start a server for each model"
                )
