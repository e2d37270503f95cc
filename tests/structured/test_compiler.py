"""Structures as grammars: what a random walk says is what was asked for, and it ends."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.protocol import FieldError, StructuredOutputs
from flaxen.structured import GrammarCompiler
from flaxen.structured.caps import Caps
from tests.server.fakes import BOS, END, VOCAB_SIZE, byte_tokenizer
from tools.schema_collection import random_walk

TOKENIZER = byte_tokenizer()
CAPS = Caps(string=12, items=5, depth=5, digits=6, spaces=3)
COMPILER = GrammarCompiler(TOKENIZER, VOCAB_SIZE, (END,), caps=CAPS)


def walk(compiler: GrammarCompiler, seed: int, **structure: Any) -> str:
    """A text that a structure allows, chosen at random."""
    make_grammar = compiler.compile(StructuredOutputs(**structure))
    tokens, has_ended, _ = random_walk(make_grammar(), (END,), VOCAB_SIZE, seed, 4000)
    assert has_ended, TOKENIZER.decode(tokens)[:500]
    return TOKENIZER.decode(tokens)


def schemas() -> st.SearchStrategy[dict[str, Any]]:
    """Schemas of many shapes, and open ones among them."""
    names = st.sampled_from(["a", "b", "ü", 'q"uote', "long name"])
    leaves: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
        [
            {"type": "string"},
            {"type": "integer"},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["string", "null"]},
            {"type": "integer", "minimum": -3, "maximum": 250},
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
            {"type": "integer", "multipleOf": 7},
            {"type": "string", "minLength": 3, "maxLength": 5},
            {"type": "string", "pattern": "^[a-c]{2,}$"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "int-or-so"},
            {"enum": ["x", 1, None, {"y": [1]}]},
            {"const": "fixed"},
            {"type": "object"},
            {"type": "array"},
        ]
    )

    def nested(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
        properties = st.dictionaries(names, inner, max_size=3)
        objects = st.builds(
            lambda given, needed, more: {
                "type": "object",
                "properties": given,
                "required": [name for name in given if name in needed],
                "additionalProperties": more,
            },
            properties,
            st.sets(names),
            st.sampled_from([True, False, {"type": "integer"}]),
        )
        arrays = st.builds(
            lambda items, least, more: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        )
        open_arrays = st.builds(lambda items: {"type": "array", "items": items}, inner)
        choices = st.builds(lambda each: {"anyOf": each}, st.lists(inner, min_size=1, max_size=3))
        return objects | arrays | open_arrays | choices

    return st.recursive(leaves, nested, max_leaves=5)


@settings(max_examples=60, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 2**32 - 1))
def test_whatever_a_schema_allows_is_valid_and_ends(schema: dict[str, Any], seed: int) -> None:
    text = walk(COMPILER, seed, json=schema)
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(5))
def test_an_object_of_json_is_one(seed: int) -> None:
    assert isinstance(json.loads(walk(COMPILER, seed, json_object=True)), dict)


@pytest.mark.parametrize("seed", range(5))
def test_a_recursive_schema_ends(seed: int) -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "number"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["value", "children"],
                "additionalProperties": False,
            }
        },
    }
    jsonschema.validate(json.loads(walk(COMPILER, seed, json=tree)), tree)


@pytest.mark.parametrize("seed", range(5))
def test_a_regular_expression_matches_the_whole_output(seed: int) -> None:
    assert re.fullmatch("[a-z]{2,4}-(yes|no)", walk(COMPILER, seed, regex="^[a-z]{2,4}-(yes|no)$"))


def test_a_choice_is_one_of_the_texts_whatever_is_in_them() -> None:
    texts = ["yes", "no", 'a "quoted" text', "über\n", "the </s> of a text", "yes, but"]
    assert {walk(COMPILER, seed, choice=texts) for seed in range(60)} == set(texts)


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "a"+ NUMBER\nNUMBER: /[0-9]{2}/',
        'root ::= "a" "a"* number\nnumber ::= [0-9] [0-9]',
    ],
    ids=["lark", "gbnf"],
)
def test_a_grammar_is_lark_or_gbnf(grammar: str) -> None:
    for seed in range(5):
        assert re.fullmatch("a+[0-9]{2}", walk(COMPILER, seed, grammar=grammar))


def test_white_space_is_as_asked() -> None:
    schema = {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 3}
    assert walk(COMPILER, 0, json=schema, disable_any_whitespace=True) == "[null,null,null]"
    for seed in range(3):
        text = walk(COMPILER, seed, json=schema, whitespace_pattern="[_]{1,2}")
        assert text.replace("_", "") == "[null,null,null]"
        assert "___" not in text


def test_listed_properties_can_be_all_there_are() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    for seed in range(5):
        text = walk(COMPILER, seed, json=schema, disable_additional_properties=True)
        assert json.loads(text) == {"a": None}


@pytest.mark.parametrize(
    ("schema", "longest"),
    [
        ({"type": "string", "pattern": "^a*$"}, r'"a{0,12}"'),
        ({"type": "integer", "minimum": 0}, "[0-9]{1,6}"),
        ({"type": "array", "items": {"const": 1}}, r"\[\s{0,3}(1\s{0,3},?\s{0,3}){0,5}\]"),
    ],
)
def test_nothing_is_longer_than_its_bound(schema: dict[str, Any], longest: str) -> None:
    """A walk that ends a thing as late as it may."""
    grammar = COMPILER.compile(StructuredOutputs(json=schema))()
    tokens: list[int] = []
    while END not in (allowed := allowed_tokens(grammar)) or len(allowed) > 1:
        late = [each for each in allowed if each not in (END, *b'"],')] or allowed
        late = [each for each in allowed if each == ord(",")] or late
        grammar.accept_token(late[-1])
        tokens.append(late[-1])
        assert len(tokens) < 1000
    assert re.fullmatch(longest, TOKENIZER.decode(tokens)), TOKENIZER.decode(tokens)


def allowed_tokens(grammar: Any, vocab_size: int = VOCAB_SIZE) -> list[int]:
    bitmask = np.zeros(-(-vocab_size // 32), np.uint32)
    grammar.fill_bitmask(bitmask.data)
    bits = np.unpackbits(bitmask.view(np.uint8), bitorder="little")
    return [int(each) for each in np.flatnonzero(bits)]


def test_a_token_that_is_not_allowed_is_an_error_and_no_end() -> None:
    grammar = COMPILER.compile(StructuredOutputs(regex="ab"))()
    with pytest.raises(RuntimeError, match="the grammar can't be followed"):
        grammar.accept_token(ord("b"))
    with pytest.raises(RuntimeError, match="the grammar can't be followed"):
        allowed_tokens(grammar)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"json": {"type": "array", "uniqueItems": True}}, 'the keyword "uniqueItems" is not'),
        ({"json": {"not": {"type": "null"}}}, 'the keyword "not" is not supported'),
        ({"json": {"if": {}, "then": {}}}, 'the keyword "if", "then" is not supported'),
        ({"json": {"format": "regex"}}, "the format regex is not supported"),
        ({"json": {"pattern": "(?=a)"}}, "the pattern has a part that no grammar can have"),
        ({"json": {"pattern": "("}}, "the pattern is wrong: regex parse error"),
        ({"json": {"$ref": "https://a/b"}}, r"\$ref or \$id leads to 'https://a/b'"),
        ({"json": {"$ref": "#/a"}}, r"\$ref leads to '/a', which is not in the schema"),
        (
            {"json": {"oneOf": [{"type": "object"}, {"type": "object"}]}},
            "oneOf needs branches of which at most one can match",
        ),
        ({"json": {"type": "object", "minProperties": 2}}, "minProperties 2 needs as many"),
        ({"json": {"allOf": [{"type": "null"}, {"type": "string"}]}}, "Unsatisfiable schema"),
        ({"json": {"$schema": "http://json-schema.org/draft-03/schema#"}}, r"\$schema names draft"),
        ({"json": {"type": "thing"}}, "Invalid type: thing"),
        ({"regex": "(a"}, "regex can't be followed: the pattern is wrong"),
        ({"grammar": "start: missing"}, "grammar can't be followed: .*missing"),
        ({"grammar": "root ::= ("}, "grammar can't be followed"),
        ({"structural_tag": {}}, "structural_tag needs structures and triggers, or format"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_refused_by_its_keyword(
    structure: dict[str, Any], message: str
) -> None:
    with pytest.raises(FieldError, match=message) as error:
        COMPILER.compile(StructuredOutputs(**structure))
    [kind] = structure
    assert error.value.field == f"structured_outputs.{kind}"


def test_as_many_choices_as_fit_into_a_text() -> None:
    texts = [f"number {i}" for i in range(3000)]
    assert walk(COMPILER, 0, choice=texts) in texts


def test_a_grammar_that_is_too_ambiguous_is_given_up() -> None:
    alike = " | ".join(f'"a" /x/ "{i}"' for i in range(3000))
    grammar = COMPILER.compile(StructuredOutputs(grammar=f"start: {alike}"))()
    with pytest.raises(RuntimeError, match=r"the grammar can't be followed: .* has 3000 items"):
        grammar.accept_token(ord("a"))


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(FieldError, match="regex has 1000001 characters; 1000000 may be"):
        COMPILER.compile(StructuredOutputs(regex="a" * 1_000_001))


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"items": {"anyOf": [schema]}}
    with pytest.raises(FieldError, match="json"):
        COMPILER.compile(StructuredOutputs(json=schema))


def test_a_model_without_an_end_follows_no_grammar() -> None:
    with pytest.raises(ValueError, match="need a token that ends a sequence, and this model"):
        GrammarCompiler(TOKENIZER, VOCAB_SIZE, ()).compile(StructuredOutputs(regex="a"))


def test_a_structure_is_compiled_once_while_it_is_kept() -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCAB_SIZE, (END,))
    first = StructuredOutputs(regex="first")
    assert compiler.find(first) is None
    compiler.compile(first)
    for i in range(255):
        compiler.compile(StructuredOutputs(regex=f"other {i}"))
    assert compiler.find(StructuredOutputs(regex="first")) is not None  # and it is the newest now
    compiler.compile(StructuredOutputs(regex="one more"))
    assert compiler.find(first) is not None
    assert compiler.find(StructuredOutputs(regex="other 0")) is None


def test_a_vocabulary_may_be_larger_or_smaller_than_the_tokenizers() -> None:
    for size in (200, 258, 300):
        compiler = GrammarCompiler(TOKENIZER, size, (5,))
        grammar = compiler.compile(StructuredOutputs(regex="[ab]"))()
        assert allowed_tokens(grammar, size) == [ord("a"), ord("b")]


def test_special_tokens_are_no_text() -> None:
    allowed = allowed_tokens(COMPILER.compile(StructuredOutputs(regex=r"(.|\n)+"))())
    assert BOS not in allowed
    assert ord("a") in allowed
