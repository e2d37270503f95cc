"""A format is found by its name, or by what a chat template prints."""

from __future__ import annotations

import pytest

from flaxen.output_parsers import layouts
from flaxen.output_parsers.formats import deepseek
from flaxen.output_parsers.table import REASONING_FORMATS, TOOL_FORMATS, choose_formats


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<tool_call>\n{{ tools }}", "hermes"),
        ("<tool_call>\n<function={{ f }}>", "qwen3_coder"),
        ("<tool_call>{{ f }}<arg_key>", "glm45"),
        ("<|python_tag|>", "llama3_json"),
        ("<|python_start|>", "llama4_pythonic"),
        ("[TOOL_CALLS]", "mistral"),
        (deepseek.SECTION, "deepseek_v31"),
        (deepseek.SECTION + "```json", "deepseek_v3"),
        ("<|tool_calls_section_begin|>", "kimi_k2"),
        ("<|channel|>analysis<|message|>", "openai"),
        ("<|tool|>{{ tools }}<|/tool|>", "phi4_mini_json"),
        ("<|tool_call|>", "granite"),
        ("<start_function_call>", "functiongemma"),
        ("<|tool_call_start|>", "lfm2"),
        ("List of tools: <|tool_list_start|>[", "lfm2"),
        ("<|im_system|>tool_declare<|im_middle|>", "kimi_k2"),
        ("{{ messages }}", "hermes"),
        (None, "hermes"),
    ],
)
def test_a_template_shows_its_format(template: str | None, name: str) -> None:
    formats = choose_formats(template, tool_parser=None, reasoning_parser=None)
    assert formats.tools is TOOL_FORMATS[name]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<think>\n", "qwen3"),
        ("{{ content.split('</think>') }}", "qwen3"),
        ("[THINK]", "mistral"),
        ("<seed:think>", "seed_oss"),
        ("Here is my thought process:", "granite"),
    ],
)
def test_a_template_shows_how_the_model_reasons(template: str, name: str) -> None:
    found = choose_formats(template, tool_parser=None, reasoning_parser=None).reasoning
    assert found is REASONING_FORMATS[name]


def test_most_models_do_not_reason() -> None:
    assert choose_formats("<tool_call>", tool_parser=None, reasoning_parser=None).reasoning is None


def test_a_name_is_stronger_than_the_template() -> None:
    formats = choose_formats(
        "[TOOL_CALLS]<think>", tool_parser="hermes", reasoning_parser="granite"
    )
    assert formats.tools is TOOL_FORMATS["hermes"]
    assert formats.reasoning is REASONING_FORMATS["granite"]


def test_a_template_says_which_of_two_forms_a_named_format_has() -> None:
    for template in ("[TOOL_CALLS][ARGS]", "[TOOL_CALLS]"):
        found = choose_formats(template, tool_parser="mistral", reasoning_parser=None).tools
        has_args = found.layout is layouts.MISTRAL_ARGS
        assert has_args == ("[ARGS]" in template)


@pytest.mark.parametrize("names", [("openai", "qwen3"), (None, "openai_gptoss")])
def test_harmony_reads_calls_and_reasoning(names: tuple[str | None, str]) -> None:
    formats = choose_formats(None, tool_parser=names[0], reasoning_parser=names[1])
    assert (formats.tools, formats.reasoning) == (TOOL_FORMATS["openai"], None)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no tool call parser 'x': use one of deepseek_v3, "):
        choose_formats(None, tool_parser="x", reasoning_parser=None)
    with pytest.raises(ValueError, match="no reasoning parser 'x': use one of deepseek_r1, "):
        choose_formats(None, tool_parser=None, reasoning_parser="x")
