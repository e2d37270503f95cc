"""Structural tags: text is free, and what stands after a tag's beginning has its structure."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from flaxen.protocol import FieldError, StructuredOutputs
from flaxen.structured import GrammarCompiler
from flaxen.structured.caps import Caps
from tests.server.fakes import END, VOCAB_SIZE, byte_tokenizer
from tools.schema_collection import random_walk

TOKENIZER = byte_tokenizer()
COMPILER = GrammarCompiler(
    TOKENIZER, VOCAB_SIZE, (END,), caps=Caps(string=8, items=3, depth=4, digits=4, spaces=2)
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def follow(tag: dict[str, Any], text: str) -> bool:
    """Whether a tag's grammar takes a text, and may end after it."""
    grammar = COMPILER.compile(StructuredOutputs(structural_tag=tag))()
    try:
        for token_id in TOKENIZER.encode(text, add_special_tokens=False):
            grammar.accept_token(token_id)
        grammar.accept_token(END)
    except RuntimeError:
        return False
    return True


def walks(tag: dict[str, Any], count: int = 10) -> list[str]:
    """Random texts of a tag's grammar that came to an end."""
    make_grammar = COMPILER.compile(StructuredOutputs(structural_tag=tag))
    found = [random_walk(make_grammar(), (END,), VOCAB_SIZE, seed, 2000) for seed in range(count)]
    return [TOKENIZER.decode(tokens) for tokens, has_ended, _ in found if has_ended]


def calls(begin: str = "<f=", **more: Any) -> dict[str, Any]:
    tags = [
        {"begin": f"{begin}{name}>", "content": {"type": "json_schema", "json_schema": SCHEMA},
         "end": "</f>"}
        for name in ("one", "two")
    ]  # fmt: skip
    return {"format": {"type": "triggered_tags", "triggers": [begin], "tags": tags, **more}}


OLD = {
    "type": "structural_tag",
    "structures": [{"begin": "<f=one>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f="],
}
CALL = '<f=one>{"a": 1, "b": "x"}</f>'


@pytest.mark.parametrize("tag", [OLD, calls()], ids=["structures", "format"])
def test_text_is_free_until_a_trigger(tag: dict[str, Any]) -> None:
    assert follow(tag, "")
    assert follow(tag, 'any "text" <f and more')
    assert follow(tag, f"before {CALL} between {CALL} after")
    assert not follow(tag, "<f=other>")
    assert not follow(tag, '<f=one>{"a": "x"}</f>')
    assert not follow(tag, '<f=one>{"a": 1, "b": "x"}')


def test_a_call_can_be_required_and_be_the_last() -> None:
    assert not follow(calls(at_least_one=True), "only text")
    assert follow(calls(at_least_one=True), f"text {CALL}{CALL} text")
    once = calls(at_least_one=True, stop_after_first=True)
    assert follow(once, f"text {CALL}")
    assert not follow(once, f"text {CALL} more")
    perhaps = calls(stop_after_first=True)
    assert follow(perhaps, "text")
    assert follow(perhaps, f"text {CALL}")
    assert not follow(perhaps, f"text {CALL} more")


def test_the_json_in_tags_is_bounded_and_valid() -> None:
    either = {
        "type": "or",
        "elements": [{"type": "tag", **tag} for tag in calls()["format"]["tags"]],
    }
    texts = walks({"format": either})
    assert len(texts) == 10
    for text in texts:
        found = re.fullmatch(r"<f=(one|two)>(.*)</f>", text, re.DOTALL)
        assert found is not None, text
        value = json.loads(found[2])
        jsonschema.validate(value, SCHEMA)
        assert len(value["b"]) <= 8


def test_a_special_token_begins_a_tag() -> None:
    tag = calls(begin="<s>", at_least_one=True, stop_after_first=True)
    grammar = COMPILER.compile(StructuredOutputs(structural_tag=tag))()
    text = '<s>one>{"a": 1, "b": "x"}</f>'
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert ids[0] == TOKENIZER.bos_token_id
    for token_id in (*ids, END):
        grammar.accept_token(token_id)


def test_formats_combine() -> None:
    tag = {
        "format": {
            "type": "sequence",
            "elements": [
                {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": "</t>"},
                {
                    "type": "or",
                    "elements": [
                        {"type": "const_string", "value": "yes/no"},
                        {"type": "regex", "pattern": "[0-9]/[0-9]"},
                    ],
                },
                {
                    "type": "tags_with_separator",
                    "separator": ";",
                    "tags": [
                        {"begin": "[", "content": {"type": "const_string", "value": "x"},
                         "end": "]"}
                    ],
                },
            ],
        }
    }  # fmt: skip
    assert follow(tag, "<t>thoughts </t>yes/no[x];[x]")
    assert follow(tag, "<t></t>1/2")
    assert not follow(tag, "<t>thoughts</t>maybe")
    assert not follow(tag, "yes/no")
    assert not follow(tag, "<t></t>1/2[x];")


def test_after_thoughts_a_schema_is_followed() -> None:
    """What a reasoning model is asked for: thoughts, which are free, and then JSON."""
    thoughts = {"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": "</think>"}
    answer = {"type": "json_schema", "json_schema": SCHEMA}
    tag = {"format": {"type": "sequence", "elements": [thoughts, answer]}}
    assert follow(tag, 'a } " thought</think>{"a": 1, "b": ""}')


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ({"structures": [], "triggers": ["a"]}, "structures must be a list of at least one"),
        ({"structures": [{"end": ""}], "triggers": ["a"]}, r"structures\[0\].begin must be a text"),
        ({"structures": OLD["structures"]}, "triggers must be a list of texts"),
        (
            {"structures": OLD["structures"], "triggers": ["x"]},
            "must hold a beginning of '<f=one>'",
        ),
        ({"format": 1}, "format must be an object, got 1"),
        ({"format": {"type": "x"}}, "format.type 'x' is not one of const_string, json_schema"),
        ({"format": {"type": "sequence", "elements": [1]}}, "format.elements must be an object"),
        (
            {"format": {"type": "json_schema", "json_schema": {"uniqueItems": True}}},
            'the keyword "uniqueItems" is not supported',
        ),
    ],
    ids=str,
)
def test_a_wrong_tag_is_refused_by_its_field(tag: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message) as error:
        COMPILER.compile(StructuredOutputs(structural_tag=tag))
    assert error.value.field == "structured_outputs.structural_tag"
