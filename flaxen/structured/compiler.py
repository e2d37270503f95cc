"""Compiles structures to grammars, in bounded time and memory, and keeps those of late.

Deliberately does not know: threads of the caller, HTTP.
"""

from __future__ import annotations

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from flaxen.protocol import FieldError, Grammar, StructuredOutputs
from flaxen.structured.caps import Caps, JsonCaps
from flaxen.structured.matched import Bounds, MatchedGrammar
from flaxen.structured.refusals import reason
from flaxen.structured.schema import prepare_schema
from flaxen.structured.tag_caps import TagCaps
from flaxen.structured.tags import tag_grammar
from flaxen.structured.vocabulary import Vocabulary
from flaxen.text.tokenizer import Tokenizer

MakeGrammar = Callable[[], Grammar]

MAX_CHARS = 1_000_000  # the longest text of a structure
_MAX_KEPT = 256  # structures that are kept
_MAX_KEPT_CHARS = 8_000_000  # their texts together
# Between tokens of JSON: a line break and an indentation, or a space.
_WHITESPACE = r"(\r?\n[ \t]{0,64}|[ \t]{1,2})"
# The texts of tools are whole files at times.
_TAG_CAPS = Caps(string=262_144)


@dataclass(frozen=True, kw_only=True)
class _Compiled:
    matcher: llguidance.LLMatcher  # at its beginning; copied for each sequence
    make_bounds: Callable[[], Bounds] | None


@final
class GrammarCompiler:
    """Makes the grammars of one model's requests. Safe to share between threads.

    Args:
      tokenizer: the model's tokenizer.
      vocab_size: V of the model.
      eos_token_ids: the tokens that end a sequence.
      caps: the bounds of what JSON schemas leave open; None has the usual ones.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        *,
        caps: Caps | None = None,
    ) -> None:
        self._make_vocabulary = functools.partial(
            Vocabulary, tokenizer, vocab_size, tuple(eos_token_ids)
        )
        self._caps = caps
        self._lock = threading.Lock()  # guards what follows
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[StructuredOutputs, _Compiled] = OrderedDict()
        self._num_kept_chars = 0

    def find(self, structure: StructuredOutputs) -> MakeGrammar | None:
        """What `compile` returned for an equal structure, if it is still kept. Takes no time."""
        with self._lock:
            compiled = self._kept.get(structure)
            if compiled is None or self._vocabulary is None:
                return None
            self._kept.move_to_end(structure)
            return _maker(compiled, self._vocabulary)

    def compile(self, structure: StructuredOutputs) -> MakeGrammar:
        """Compiles a structure. The first call also reads the tokenizer, which takes seconds if its
        vocabulary is large: not for a coroutine.

        Returns:
          A function that makes a grammar for each sequence.

        Raises:
          FieldError: the structure can't be done; the message names the keyword or the place.
          ValueError: the model names no token that ends a sequence.
        """
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = self._make_vocabulary()
            vocabulary = self._vocabulary
        if (kept := self.find(structure)) is not None:
            return kept
        if len(structure.text) > MAX_CHARS:
            raise _refused(structure, f"has {len(structure.text)} characters; {MAX_CHARS} may be")
        try:
            compiled = _compile(structure, vocabulary, self._caps)
        except RecursionError:
            raise _refused(structure, "is nested too deeply: give a flatter one") from None
        except (ValueError, GbnfToLarkError) as error:
            raise _refused(structure, f"can't be followed: {error}") from None
        self._keep(structure, compiled)
        return _maker(compiled, vocabulary)

    def _keep(self, structure: StructuredOutputs, compiled: _Compiled) -> None:
        with self._lock:
            if structure in self._kept:  # another thread compiled it too
                return
            self._kept[structure] = compiled
            self._num_kept_chars += len(structure.text)
            while len(self._kept) > _MAX_KEPT or self._num_kept_chars > _MAX_KEPT_CHARS:
                oldest, _ = self._kept.popitem(last=False)
                self._num_kept_chars -= len(oldest.text)


def _refused(structure: StructuredOutputs, problem: str) -> FieldError:
    return FieldError(f"structured_outputs.{structure.kind}", f"{structure.kind} {problem}")


def _maker(compiled: _Compiled, vocabulary: Vocabulary) -> MakeGrammar:
    def make() -> Grammar:
        bounds = None if compiled.make_bounds is None else compiled.make_bounds()
        return MatchedGrammar(compiled.matcher.deep_copy(), vocabulary, bounds)

    return make


def _compile(structure: StructuredOutputs, vocabulary: Vocabulary, caps: Caps | None) -> _Compiled:
    text = structure.text
    make_bounds: Callable[[], Bounds] | None = None
    match structure.kind:
        case "json" | "json_object":
            schema = _schema_text(json.loads(text), structure)
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
            make_bounds = functools.partial(JsonCaps, vocabulary, caps or Caps())
        case "regex":
            grammar = llguidance.LLMatcher.grammar_from_regex(text)
        case "choice":
            # Choices are matched as texts, also where one is the text of a special token. They are
            # one terminal, because a rule may have some thousand alternatives only.
            choices = " | ".join(json.dumps(each, ensure_ascii=False) for each in json.loads(text))
            grammar = llguidance.LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {choices}")
        case "grammar":
            is_gbnf = "::=" in text
            grammar = llguidance.LLMatcher.grammar_from_lark(
                gbnf_to_lark(text) if is_gbnf else text
            )
        case "structural_tag":
            tags = tag_grammar(
                json.loads(text),
                literal=vocabulary.literal,
                schema=lambda schema: _schema_text(dict(schema), structure),
            )
            grammar = llguidance.LLMatcher.grammar_from_lark(tags.lark)
            make_bounds = functools.partial(
                TagCaps, vocabulary, caps or _TAG_CAPS, tags.json_begins
            )
    matcher = llguidance.LLMatcher(vocabulary.for_matchers, grammar, log_level=0, limits=_limits())
    if matcher.is_error():
        raise ValueError(reason(matcher.get_error()))
    matcher.compute_bitmask()  # copies begin with what this has worked out
    if matcher.is_error():
        raise ValueError(reason(matcher.get_error()))
    return _Compiled(matcher=matcher, make_bounds=make_bounds)


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
