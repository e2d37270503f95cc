"""Renders a chat with the model's template, and tokenizes it.

Knows: what the template shows of tools and documents. Deliberately does not know sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.output_parsers.described_tools import with_described_tools
from flaxen.server.context import Context
from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation.continuing import cut_at_mark, mark_end
from flaxen.server.generation.messages import check_size, read_messages
from flaxen.server.generation.prompts import Prompt, encode
from flaxen.server.generation.tools import ToolUse
from flaxen.server.schema import shorten
from flaxen.text.chat import RESERVED_VARIABLES, TOOLS_TEMPLATE
from flaxen.text.mentions import mentions
from flaxen.text.tool_calls import shows_tool_calls

_NO_TOOLS = ToolUse()


async def chat_prompt(
    messages: list[Any],
    *,
    add_generation_prompt: bool,
    template_kwargs: Mapping[str, Any],
    add_special_tokens: bool,
    context: Context,
    continues: bool = False,
    tools: ToolUse = _NO_TOOLS,
    documents: list[Any] | None = None,
) -> Prompt:
    """Renders the messages with the model's chat template, and tokenizes the result.

    Args:
      messages: as they were sent.
      add_generation_prompt: whether the assistant's next message is begun.
      template_kwargs: more variables for the template.
      add_special_tokens: whether the tokenizer adds its own to those that the template wrote.
      context: the server's parts.
      continues: whether the last message stays open, so that the answer continues it.
      tools: those that the answer may call. A template that shows no tools gets them in the
          messages (decision 0323).
      documents: for templates that show documents.

    Raises:
      ApiError: 400, the messages are invalid, there is no template, or it refuses them; 429 and
          503, as in ChatRenderer.
    """
    template = context.chat_template
    if template is None:
        raise invalid(
            "this model has no chat template, so it can't read messages: use /v1/completions",
            "messages",
            "no_chat_template",
        )
    if template.missing:
        raise invalid(template.missing, "messages", "no_chat_template")
    for name in template_kwargs:
        if name in RESERVED_VARIABLES:
            raise invalid(
                f"chat_template_kwargs may not set {name!r}: the server sets it itself",
                "chat_template_kwargs",
            )
    check_size(messages, context.config.max_messages)
    source = template_source(context, tools)
    read = read_messages(messages)
    variables = {**context.config.template_kwargs, **template_kwargs}
    if documents:
        variables["documents"] = _read_documents(documents, source)
    is_described = describes_tools(context, tools)
    if tools and not is_described:
        variables["tools"] = list(tools.described)
    if is_described or not shows_tool_calls(source):
        read = with_described_tools(read, tools.described if is_described else ())
    text = await template.render(
        mark_end(read) if continues else read,
        add_generation_prompt=add_generation_prompt and not continues,
        variables=variables,
    )
    if continues:
        text = cut_at_mark(text)
    # The template has written all special tokens; adding more would change the prompt.
    [token_ids] = await encode([text], add_special_tokens, context)
    if not token_ids:
        raise invalid("the messages render to an empty prompt", "messages")
    return Prompt(token_ids=tuple(token_ids), text=text)


def template_source(context: Context, tools: ToolUse) -> str | None:
    """The source of the template that renders a chat; a model may have another one for tools."""
    named = context.tokenizer.named_templates
    return (named.get(TOOLS_TEMPLATE) if tools else None) or context.tokenizer.chat_template


def describes_tools(context: Context, tools: ToolUse) -> bool:
    """Whether the messages must describe the tools, because the template does not show them."""
    return bool(tools) and not mentions(template_source(context, tools), "tools")


def _read_documents(documents: list[Any], source: str | None) -> list[dict[str, Any]]:
    if not all(isinstance(document, dict) for document in documents):
        raise invalid(
            'documents must hold objects, such as {"title": "…", "text": "…"}, got '
            f"{shorten(documents)}",
            "documents",
        )
    if not mentions(source, "documents"):
        raise unsupported(
            "documents are refused: the model's chat template has no variable of that name; put "
            "their text into a message",
            "documents",
        )
    return documents
