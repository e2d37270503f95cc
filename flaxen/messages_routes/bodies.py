"""The bodies of /v1/messages and /v1/messages/count_tokens, and the chats that they ask for.

Deliberately does not know: limits, engines, the blocks of messages.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from flaxen.messages_routes.cache_control import retention_fields
from flaxen.messages_routes.messages import chat_messages
from flaxen.messages_routes.thinking import thinking_fields
from flaxen.messages_routes.tools import tool_fields
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import CACHE_CONTROL, Rule, drop
from flaxen.server.schema import StrictBody, Whole, parse, shorten

# Fields of Anthropic's API for what this server does not have, by the values without effect.
WITHOUT_EFFECT = {
    "metadata": Rule(lambda value: isinstance(value, dict), "it must be an object"),
    "service_tier": Rule(
        lambda value: value in ("auto", "standard_only"), "this server has one tier only"
    ),
    "cache_control": CACHE_CONTROL,
    "diagnostics": Rule(lambda value: isinstance(value, dict), "it must be an object"),
    "speed": Rule(lambda value: value == "standard", "there is one speed only"),
    "mcp_servers": Rule(lambda value: value == [], "this server calls no other one"),
    "container": Rule(lambda value: False, "this server runs no code"),
    "inference_geo": Rule(lambda value: False, "this server is in one place"),
    "context_management": Rule(
        lambda value: isinstance(value, dict) and not _edits(value),
        "the conversation is not changed by this server: send it as the model shall see it",
    ),
}


class PromptBody(StrictBody):
    """The fields that make the prompt, which both routes have."""

    model: str
    messages: list[Any]  # read in messages.py
    system: Any = None
    tools: list[Any] | None = None  # read in tools.py
    tool_choice: Any = None
    thinking: Any = None  # read in thinking.py
    output_config: dict[str, Any] | None = None


class AnswerBody(StrictBody):
    """The fields that say how to answer."""

    max_tokens: Whole = Field(ge=1)
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = None
    top_k: Whole | None = None


def chat_body(fields: dict[str, Any], context: Context) -> dict[str, Any]:
    """The body of the chat that a body of /v1/messages asks for.

    Args:
      fields: as they were sent.
      context: has the model's template, which says whether it can think.

    Raises:
      ApiError: 400 with the wrong field as its param; the message names it.
    """
    given = drop(fields, WITHOUT_EFFECT)
    names = AnswerBody.model_fields
    body = parse(PromptBody, {name: each for name, each in given.items() if name not in names})
    answer = parse(AnswerBody, {name: each for name, each in given.items() if name in names})
    chat = {
        **prompt_fields(body, answer.max_tokens, context),
        **retention_fields(fields),
        "model": body.model,
        "max_tokens": answer.max_tokens,
        "stream": answer.stream,
        "stop": answer.stop_sequences,
        "temperature": answer.temperature,
        "top_p": answer.top_p,
        "top_k": answer.top_k,
    }
    return {name: value for name, value in chat.items() if value is not None}


def prompt_fields(body: PromptBody, max_tokens: int | None, context: Context) -> dict[str, Any]:
    """The fields of the chat's body that make its prompt.

    Args:
      body: the fields.
      max_tokens: the answer's; None where tokens are counted.
      context: as in `chat_body`.

    Raises:
      ApiError: 400, as in `chat_body`.
    """
    config = dict(body.output_config or {})
    effort, form = config.pop("effort", None), config.pop("format", None)
    for name in config:
        param = f"output_config.{name[:80]}"
        raise invalid(f"unknown field {param!r}", param, "unknown_parameter")
    messages = chat_messages(body.system, body.messages)
    continues = messages[-1]["role"] == "assistant"
    fields = {
        **thinking_fields(body.thinking, effort, max_tokens, context),
        **tool_fields(body.tools, body.tool_choice),
        "messages": messages,
        "response_format": None if form is None else _response_format(form),
    }
    if continues:
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def _response_format(form: Any) -> dict[str, Any]:
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        raise invalid(
            "output_config.format must be {'type': 'json_schema', 'schema': …}, got "
            f"{shorten(form)}",
            "output_config.format",
        )
    schema = {"name": "output", "schema": form.get("schema"), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _edits(context_management: dict[str, Any]) -> list[Any]:
    """The changes that are asked for; to keep all thinking changes nothing."""
    edits = context_management.get("edits") or []
    if not isinstance(edits, list):
        return [edits]
    kept = [edit for edit in edits if not (isinstance(edit, dict) and edit.get("keep") == "all")]
    return kept + [name for name in context_management if name != "edits"]
