"""How the answer to a chat is written and read: the model's formats, and what is asked of them.

Deliberately does not know: how a structure constrains the output, JSON of answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.output_parsers.layouts import Thoughts
from flaxen.output_parsers.parser import Reader
from flaxen.output_parsers.structure import behind_thoughts, required_calls, strict_calls
from flaxen.output_parsers.table import HERMES, ToolFormat
from flaxen.protocol import FieldError, StructuredOutputs
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.generation.chat_prompts import describes_tools
from flaxen.server.generation.message import MessageForm
from flaxen.server.generation.prompts import Prompt
from flaxen.server.generation.tools import ToolUse


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """What an answer looks like."""

    message: MessageForm
    structure: StructuredOutputs | None  # of the whole output, reasoning and markers included
    structure_field: str  # the field that asks for it, for errors
    is_help: bool  # nobody asked for the structure: where it can't be followed, there is none
    thoughts: Thoughts | None  # how the model reasons before it; None if it does not
    is_open: bool  # the prompt has opened the reasoning
    shows_special_tokens: bool  # some of its markers are special tokens


def answer_form(
    context: Context,
    prompt: Prompt,
    tools: ToolUse,
    *,
    content: StructuredOutputs | None,
    include_reasoning: bool,
) -> AnswerForm:
    """The form of the answers to a prompt.

    Args:
      context: has the model's formats.
      prompt: whose end may have opened the reasoning.
      tools: those that may be called.
      content: the structure that the body asks for; an answer that must call tools has none.
      include_reasoning: whether the client wants to see it.

    Raises:
      ApiError: 400, a tool's schema is nested too deeply.
    """
    reasoning = context.formats.reasoning
    style, is_help = _style(context, tools), _is_help(context, tools)
    is_open = reasoning is not None and reasoning.opened_by(prompt.text or "")
    thoughts = style.thoughts if reasoning is None else reasoning.thoughts
    structure, field = _calls(style, tools, thoughts, is_open, is_help=is_help), "tools"
    if content is not None and not tools.must_call:
        structure, field, is_help = content, "response_format", False
        if thoughts is not None:
            structure = behind_thoughts(content, thoughts, is_open=is_open)
    readers: list[Reader] = []
    markers: list[str] = []
    if content is not None and structure is None:
        structure, thoughts = content, None  # from the first token on: there is no reasoning
    elif reasoning is not None:
        readers.append(reasoning.reader(is_open=is_open))
        markers += (*reasoning.begins, *reasoning.ends)
    if tools or style.thoughts is not None:
        readers.append(style.reader(tools.schemas))
        markers += style.markers
    return AnswerForm(
        message=MessageForm(
            readers=tuple(readers),
            shows_reasoning=include_reasoning,
            one_call=tools.one_call,
            custom=tools.custom,
            calls_functions=tools.are_functions,
            short_ids=style.short_ids,
        ),
        structure=structure,
        structure_field=field,
        is_help=is_help,
        thoughts=thoughts,
        is_open=is_open,
        shows_special_tokens=not context.special_texts.isdisjoint(markers),
    )


def _style(context: Context, tools: ToolUse) -> ToolFormat:
    """How calls are written: as the model does, if it was told of the tools in its own way."""
    style = context.formats.tools
    if tools and describes_tools(context, tools):
        return HERMES
    # Calls that are not JSON can't be constrained: others can, and are read as well.
    return HERMES if tools.must_call and style.layout is None else style


def _is_help(context: Context, tools: ToolUse) -> bool:
    """Whether calls get a structure that nobody asked for: a model that was not trained to call
    tools begins calls well, and then writes arguments that are none (decision 0323).
    """
    return describes_tools(context, tools) and not (tools.must_call or tools.strict)


def _calls(
    style: ToolFormat, tools: ToolUse, thoughts: Thoughts | None, is_open: bool, *, is_help: bool
) -> StructuredOutputs | None:
    """The structure of the calls of an answer; None where nothing is asked of it."""
    if style.layout is None or not tools:
        return None
    schemas, one_call = tools.schemas, tools.one_call
    try:
        if not tools.must_call:
            strict = schemas if is_help else tools.strict
            return strict_calls(style.layout, schemas, strict, one_call=one_call)
        return required_calls(
            style.layout, schemas, one_call=one_call, thoughts=thoughts, is_open=is_open
        )
    except FieldError as error:
        raise invalid(f"a schema of tools can't be followed: {error}", "tools") from None
