"""Compiles one structure to a matcher, with which the grammars of its sequences begin.

`GrammarCompiler` imports this when the first structure comes: llguidance takes 15 MB of memory.
Deliberately does not know: which structures are kept, threads, HTTP.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, final

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from flaxen.protocol import Grammar, StructuredOutputs
from flaxen.structured.caps import Caps, JsonCaps
from flaxen.structured.matched import Bounds, MatchedGrammar
from flaxen.structured.refusals import reason, refused
from flaxen.structured.schema import prepare_schema
from flaxen.structured.tag_caps import TagCaps
from flaxen.structured.tags import tag_grammar
from flaxen.structured.vocabulary import Vocabulary

# Between tokens of JSON: a line break and an indentation, or a space.
_WHITESPACE = r"(\r?\n[ \t]{0,64}|[ \t]{1,2})"
# The texts of tools are whole files at times.
_TAG_CAPS = Caps(string=262_144)


@final
class Matchers:
    """Makes the matchers of one vocabulary. Safe to share between threads.

    Args:
      vocabulary: the model's tokens.
      caps: the bounds of what JSON schemas leave open; None has the usual ones.
    """

    def __init__(self, vocabulary: Vocabulary, caps: Caps | None) -> None:
        self._vocabulary, self._caps = vocabulary, caps

    def compile(self, structure: StructuredOutputs) -> Callable[[], Grammar]:
        """Compiles a structure.

        Returns:
          A function that makes a grammar for each sequence.

        Raises:
          FieldError: the structure can't be done; the message names the keyword or the place.
        """
        try:
            grammar, make_bounds = self._grammar(structure)
            matcher = llguidance.LLMatcher(
                self._vocabulary.for_matchers, grammar, log_level=0, limits=_limits()
            )
            _check(matcher)
            matcher.compute_bitmask()  # copies begin with what this has worked out
            _check(matcher)
        except RecursionError:
            raise refused(structure, "is nested too deeply: give a flatter one") from None
        except (ValueError, GbnfToLarkError) as error:
            raise refused(structure, f"can't be followed: {error}") from None

        def make() -> Grammar:
            bounds = None if make_bounds is None else make_bounds()
            return MatchedGrammar(matcher.deep_copy(), self._vocabulary, bounds)

        return make

    def _grammar(self, structure: StructuredOutputs) -> tuple[str, Callable[[], Bounds] | None]:
        """The structure in the matcher's notation, and what makes the bounds of its texts."""
        text = structure.text
        match structure.kind:
            case "json" | "json_object":
                schema = _schema_text(json.loads(text), structure)
                return (
                    llguidance.LLMatcher.grammar_from_json_schema(schema),
                    functools.partial(JsonCaps, self._vocabulary, self._caps or Caps()),
                )
            case "regex":
                return llguidance.LLMatcher.grammar_from_regex(text), None
            case "choice":
                # Choices are matched as texts, also where one is the text of a special token. They
                # are one terminal, because a rule may have some thousand alternatives only.
                choices = " | ".join(
                    json.dumps(each, ensure_ascii=False) for each in json.loads(text)
                )
                lark = f"start: CHOICE\nCHOICE: {choices}"
                return llguidance.LLMatcher.grammar_from_lark(lark), None
            case "grammar":
                lark = gbnf_to_lark(text) if "::=" in text else text
                return llguidance.LLMatcher.grammar_from_lark(lark), None
            case "structural_tag":
                tags = tag_grammar(
                    json.loads(text),
                    literal=self._vocabulary.literal,
                    schema=lambda schema: _schema_text(dict(schema), structure),
                )
                return (
                    llguidance.LLMatcher.grammar_from_lark(tags.lark),
                    functools.partial(
                        TagCaps, self._vocabulary, self._caps or _TAG_CAPS, tags.json_begins
                    ),
                )


def _check(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise ValueError(reason(matcher.get_error()))


def _limits() -> llguidance.LLParserLimits:
    """The bounds of one grammar: of its memory, some 2 kB for each state, and of the time that a
    mask takes, some 30 ms where a grammar is as ambiguous as it may be.
    """
    return llguidance.LLParserLimits(
        max_lexer_states=50_000, step_max_items=10_000, verbose_errors=False
    )


def _schema_text(schema: dict[str, Any], structure: StructuredOutputs) -> str:
    prepared = prepare_schema(schema, closes_objects=structure.disable_additional_properties)
    options: dict[str, Any] = {"whitespace_pattern": structure.whitespace_pattern or _WHITESPACE}
    if structure.disable_any_whitespace:
        options = {"whitespace_flexible": False}
    return json.dumps(prepared | {"x-guidance": options}, ensure_ascii=False)
