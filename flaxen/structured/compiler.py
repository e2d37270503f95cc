"""Compiles structures to grammars, in bounded time and memory, and keeps those of late.

Deliberately does not know: threads of the caller, HTTP.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, final

from flaxen.protocol import Grammar, StructuredOutputs
from flaxen.structured.caps import Caps
from flaxen.structured.refusals import refused
from flaxen.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from flaxen.structured.matchers import Matchers

MakeGrammar = Callable[[], Grammar]

MAX_CHARS = 1_000_000  # the longest text of a structure
_MAX_KEPT = 256  # structures that are kept
_MAX_KEPT_CHARS = 8_000_000  # their texts together


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
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._eos_token_ids, self._caps = tuple(eos_token_ids), caps
        self._lock = threading.Lock()  # guards what follows
        self._matchers: Matchers | None = None
        self._kept: OrderedDict[StructuredOutputs, MakeGrammar] = OrderedDict()
        self._num_kept_chars = 0

    def find(self, structure: StructuredOutputs) -> MakeGrammar | None:
        """What `compile` returned for an equal structure, if it is still kept. Takes no time."""
        with self._lock:
            if (make := self._kept.get(structure)) is not None:
                self._kept.move_to_end(structure)
            return make

    def compile(self, structure: StructuredOutputs) -> MakeGrammar:
        """Compiles a structure. The first call also reads the tokenizer, which takes seconds if its
        vocabulary is large: not for a coroutine.

        Returns:
          A function that makes a grammar for each sequence.

        Raises:
          FieldError: the structure can't be done; the message names the keyword or the place.
          ValueError: the model names no token that ends a sequence.
        """
        matchers = self._opened()
        if (kept := self.find(structure)) is not None:
            return kept
        if len(structure.text) > MAX_CHARS:
            raise refused(structure, f"has {len(structure.text)} characters; {MAX_CHARS} may be")
        make = matchers.compile(structure)
        self._keep(structure, make)
        return make

    def _opened(self) -> Matchers:
        with self._lock:
            if self._matchers is None:
                # Most servers are never asked for a structure, and llguidance takes 15 MB.
                from flaxen.structured.matchers import Matchers
                from flaxen.structured.vocabulary import Vocabulary

                self._matchers = Matchers(
                    Vocabulary(self._tokenizer, self._vocab_size, self._eos_token_ids), self._caps
                )
            return self._matchers

    def _keep(self, structure: StructuredOutputs, make: MakeGrammar) -> None:
        with self._lock:
            if structure in self._kept:  # another thread compiled it too
                return
            self._kept[structure] = make
            self._num_kept_chars += len(structure.text)
            while len(self._kept) > _MAX_KEPT or self._num_kept_chars > _MAX_KEPT_CHARS:
                oldest, _ = self._kept.popitem(last=False)
                self._num_kept_chars -= len(oldest.text)
