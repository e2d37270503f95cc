"""The formats by name, and the choice of one from a chat template.

The names are those of vLLM's options `--tool-call-parser` and `--reasoning-parser`, so that its
command lines work. Deliberately does not know how a format is read.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from types import MappingProxyType

from flaxen.output_parsers import layouts
from flaxen.output_parsers.formats import (
    deepseek,
    functiongemma,
    glm45,
    harmony,
    kimi_k2,
    llama_json,
    mistral,
    pythonic,
    qwen3_coder,
    thinking,
)
from flaxen.output_parsers.formats.json_calls import between
from flaxen.output_parsers.layouts import Layout, Thoughts
from flaxen.output_parsers.parser import Reader
from flaxen.output_parsers.tools import ToolReader, Tools


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """How a model writes tool calls."""

    read: ToolReader
    markers: tuple[str, ...]  # texts of the format that may be special tokens
    layout: Layout | None = None  # None: its arguments are no JSON
    thoughts: Thoughts | None = None  # the reader tells such reasoning from content too
    short_ids: bool = False  # its templates take ids of 9 letters and digits only

    def reader(self, tools: Tools) -> Reader:
        """The reader of an answer that may call these tools."""
        return lambda incoming: self.read(incoming, tools)


@dataclass(frozen=True, kw_only=True)
class ReasoningFormat:
    """The markers of a block of reasoning. Any of them opens or closes it."""

    begins: tuple[str, ...]
    ends: tuple[str, ...]
    is_always_open: bool = False  # the block is open though neither prompt nor answer says so

    def reader(self, *, is_open: bool) -> Reader:
        """The reader of an answer; `is_open` says that the prompt has opened the block."""
        return functools.partial(thinking.read, begins=self.begins, ends=self.ends, is_open=is_open)

    @property
    def thoughts(self) -> Thoughts:
        """The block as the structure of an answer has it."""
        return Thoughts(begin=self.begins[0], end=self.ends[0], breaks_behind=True)

    def opened_by(self, prompt: str) -> bool:
        """Whether the block is open behind a prompt."""
        return self.is_always_open or prompt.rstrip().endswith(self.begins)


HERMES = ToolFormat(
    read=between("<tool_call>", end="</tool_call>"),
    markers=("<tool_call>", "</tool_call>"),
    layout=layouts.HERMES,
)
_GRANITE = ToolFormat(
    read=between("<|tool_call|>", "<tool_call>", end=None),
    markers=("<|tool_call|>", "<tool_call>"),
    layout=layouts.list_behind("<|tool_call|>"),
)
_PHI4_MINI = ToolFormat(
    read=between("functools", "<|tool_call|>", end="<|/tool_call|>"),
    markers=("<|tool_call|>", "<|/tool_call|>"),
    layout=layouts.list_behind("functools"),
)
_LLAMA = ToolFormat(read=llama_json.read, markers=llama_json.MARKERS, layout=layouts.LLAMA_JSON)
_PYTHONIC = ToolFormat(read=pythonic.read, markers=pythonic.MARKERS)
_MISTRAL = ToolFormat(
    read=mistral.read,
    markers=mistral.MARKERS,
    layout=layouts.list_behind(f"{mistral.BEGIN} "),
    short_ids=True,
)
_MISTRAL_ARGS = replace(_MISTRAL, layout=layouts.MISTRAL_ARGS)
_DEEPSEEK_V3 = ToolFormat(read=deepseek.read, markers=deepseek.MARKERS, layout=layouts.DEEPSEEK_V3)
_DEEPSEEK_V31 = ToolFormat(
    read=deepseek.read, markers=deepseek.MARKERS, layout=layouts.DEEPSEEK_V31
)
_KIMI_K2 = ToolFormat(read=kimi_k2.read, markers=kimi_k2.MARKERS, layout=layouts.KIMI_K2)
_QWEN3_CODER = ToolFormat(read=qwen3_coder.read, markers=qwen3_coder.MARKERS)
_GLM = ToolFormat(read=glm45.read, markers=glm45.MARKERS)
_FUNCTIONGEMMA = ToolFormat(read=functiongemma.read, markers=functiongemma.MARKERS)
_HARMONY = ToolFormat(
    read=harmony.read,
    markers=harmony.MARKERS,
    layout=layouts.HARMONY,
    thoughts=layouts.HARMONY_THOUGHTS,
)

TOOL_FORMATS = MappingProxyType(
    {
        "deepseek_v3": _DEEPSEEK_V3, "deepseek_v31": _DEEPSEEK_V31,
        "functiongemma": _FUNCTIONGEMMA,
        "glm45": _GLM, "glm47": _GLM,
        "granite": _GRANITE, "granite4": HERMES, "hermes": HERMES,
        "kimi_k2": _KIMI_K2,
        "llama3_json": _LLAMA, "llama4_json": _LLAMA,
        "lfm2": _PYTHONIC, "llama4_pythonic": _PYTHONIC, "pythonic": _PYTHONIC,
        "mistral": _MISTRAL,
        "openai": _HARMONY,
        "phi4_mini_json": _PHI4_MINI,
        "qwen3_coder": _QWEN3_CODER, "qwen3_xml": _QWEN3_CODER,
    }
)  # fmt: skip

_THINK = ReasoningFormat(begins=("<think>",), ends=("</think>",))
_MISTRAL_THINK = ReasoningFormat(begins=("[THINK]",), ends=("[/THINK]",))
_SEED_THINK = ReasoningFormat(begins=("<seed:think>",), ends=("</seed:think>",))
_GRANITE_THINK = ReasoningFormat(
    begins=("Here is my thought process:", "Here's my thought process:"),
    ends=("Here is my response:", "Here's my response:"),
)
_R1_THINK = ReasoningFormat(begins=("<think>",), ends=("</think>",), is_always_open=True)

# None: the format of tool calls named "openai" reads the reasoning too.
REASONING_FORMATS = MappingProxyType(
    {
        "deepseek_r1": _R1_THINK, "deepseek_v3": _THINK, "glm45": _THINK, "holo2": _THINK,
        "hunyuan_a13b": _THINK, "kimi_k2": _THINK, "olmo3": _THINK, "qwen3": _THINK,
        "step3": _THINK,
        "granite": _GRANITE_THINK, "mistral": _MISTRAL_THINK, "seed_oss": _SEED_THINK,
        "openai_gptoss": None,
    }
)  # fmt: skip

# What a chat template with all of these texts in it means, in this order.
_BY_TEXT: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("<|channel|>", "<|message|>"), _HARMONY),
    ((deepseek.SECTION, "```json"), _DEEPSEEK_V3),
    ((deepseek.SECTION,), _DEEPSEEK_V31),
    ((kimi_k2.SECTION,), _KIMI_K2),
    (("<|im_system|>tool_declare",), _KIMI_K2),
    ((functiongemma.BEGIN,), _FUNCTIONGEMMA),
    (("<arg_key>",), _GLM),
    (("<function=",), _QWEN3_CODER),
    ((mistral.BEGIN, "[ARGS]"), _MISTRAL_ARGS),
    ((mistral.BEGIN,), _MISTRAL),
    (("<|tool_call_start|>",), _PYTHONIC),
    (("<|tool_list_start|>",), _PYTHONIC),
    (("<|python_start|>",), _PYTHONIC),
    (("<|/tool_call|>",), _PHI4_MINI),
    (("<|tool|>",), _PHI4_MINI),
    (("<|tool_call|>",), _GRANITE),
    (("<tool_call>",), HERMES),
    (("<|python_tag|>",), _LLAMA),
    (('"parameters": dictionary of argument name',), _LLAMA),
)
_REASONING_BY_TEXT = (
    ("[THINK]", _MISTRAL_THINK),
    ("<seed:think>", _SEED_THINK),
    ("Here is my thought process:", _GRANITE_THINK),
    ("</think>", _THINK),
    ("<think>", _THINK),
)


@dataclass(frozen=True, kw_only=True)
class Formats:
    """How a model writes tool calls and reasoning."""

    tools: ToolFormat
    reasoning: ReasoningFormat | None

    @property
    def reasons(self) -> bool:
        """Whether answers may have reasoning."""
        return self.reasoning is not None or self.tools.thoughts is not None


def choose_formats(
    template: str | None, *, tool_parser: str | None, reasoning_parser: str | None
) -> Formats:
    """The formats of a model, by their names, or by the markers that its chat template prints.

    Args:
      template: the source of the chat template; None where there is none.
      tool_parser: a key of TOOL_FORMATS; None for the template's, or "hermes" if it shows none.
      reasoning_parser: a key of REASONING_FORMATS; None for the template's, or no reasoning.

    Raises:
      ValueError: there is no format of that name.
    """
    text = template or ""
    tools = next((each for marks, each in _BY_TEXT if all(mark in text for mark in marks)), HERMES)
    reasoning = next((each for mark, each in _REASONING_BY_TEXT if mark in text), None)
    if tool_parser is not None:
        _check(tool_parser, "tool call parser", list(TOOL_FORMATS))
        named = TOOL_FORMATS[tool_parser]
        # Two formats of one reader differ in what the template shows.
        tools = tools if tools.read is named.read and tools.layout is not None else named
    if reasoning_parser is not None:
        _check(reasoning_parser, "reasoning parser", list(REASONING_FORMATS))
        reasoning = REASONING_FORMATS[reasoning_parser]
        tools = _HARMONY if reasoning is None else tools
    return Formats(tools=tools, reasoning=reasoning if tools.thoughts is None else None)


def _check(name: str, what: str, known: list[str]) -> None:
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}: use one of {', '.join(known)}")
