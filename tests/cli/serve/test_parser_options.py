"""The options of parsers: vLLM's names, one model."""

from __future__ import annotations

import pytest
import typer

from flaxen.cli.serve.given import server_config
from flaxen.cli.serve.options import RequestLimitOptions, ServerOptions
from flaxen.cli.serve.parser_options import ParserOptions, parse_object


def test_the_parsers_go_to_the_server() -> None:
    parsers = ParserOptions(tool_call_parser="mistral", reasoning_parser="qwen3")
    config = server_config(ServerOptions(), RequestLimitOptions(), parsers, engine_sequences=9)
    assert (config.tool_call_parser, config.reasoning_parser) == ("mistral", "qwen3")


def test_variables_of_the_template_are_a_json_object() -> None:
    parsers = ParserOptions(template_kwargs=parse_object('{"enable_thinking": false}'))
    config = server_config(ServerOptions(), RequestLimitOptions(), parsers, engine_sequences=9)
    assert config.template_kwargs == {"enable_thinking": False}
    for wrong in ("enable_thinking=false", "[1]"):
        with pytest.raises(typer.BadParameter, match="give a JSON object such as"):
            parse_object(wrong)
    reserved = ParserOptions(template_kwargs={"messages": []})
    with pytest.raises(ValueError, match="may not set 'messages'"):
        server_config(ServerOptions(), RequestLimitOptions(), reserved, engine_sequences=9)


def test_an_unknown_parser_is_refused_with_the_known_ones() -> None:
    parsers = ParserOptions(tool_call_parser="hermes2")
    with pytest.raises(ValueError, match="no tool call parser 'hermes2': use one of deepseek"):
        server_config(ServerOptions(), RequestLimitOptions(), parsers, engine_sequences=9)


@pytest.mark.parametrize("name", ["tool_call_parser", "reasoning_parser"])
def test_a_parser_belongs_to_one_model(name: str) -> None:
    parsers = ParserOptions(**{name: "mistral"})
    parsers.check(1)
    with pytest.raises(ValueError, match="-parser belongs to one model: leave it out"):
        parsers.check(2)
    ParserOptions(enable_auto_tool_choice=True).check(2)
