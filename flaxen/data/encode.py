"""Records to sequences of tokens with loss weights.

Deliberately does not know: files, rows, batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from flaxen.data.records import Chat, Completion, Pair, Record, Text
from flaxen.data.stopping import ShouldStop, check_stop, never
from flaxen.text.chat import ChatTemplate
from flaxen.text.chat_turns import render_turns
from flaxen.text.tokenizer import Tokenizer


class TokenSequence(NamedTuple):
    """Tokens, and the weight of each token's loss."""

    tokens: np.ndarray  # [n] int32
    weights: np.ndarray  # [n] float32; the first token is never predicted

    @property
    def num_inputs(self) -> int:
        """The number of positions that it takes in a row: the last token is only a target."""
        return len(self.tokens) - 1


class Encoder:
    """Tokenizes records for one model. Final.

    Args:
      tokenizer: the model's tokenizer.
      template: the chat template; None is the tokenizer's own, started when it is first needed.
      vocab_size: the model's; None is the tokenizer's.
      should_stop: asked before each text is tokenized, also within a record: a chat with many turns
          takes long.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None = None,
        *,
        vocab_size: int | None = None,
        should_stop: ShouldStop = never,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = tokenizer.vocab_size if vocab_size is None else vocab_size
        self._should_stop = should_stop
        self._given_template = template
        self._own_template: ChatTemplate | None = None

    def encode(self, record: Record) -> tuple[TokenSequence, ...]:
        """Returns one sequence, or two for a pair: chosen, rejected.

        Raises:
          ValueError: the template refuses the messages, no token has a loss, or the model has no
              embedding for a token.
          StoppedError: should_stop returned True.
        """
        if isinstance(record, Pair):
            return (self._one(record.chosen), self._one(record.rejected))
        return (self._one(record),)

    def close(self) -> None:
        """Ends the template's process, if this encoder started it."""
        if self._own_template:
            self._own_template.close()

    def _one(self, record: Text | Completion | Chat) -> TokenSequence:
        if isinstance(record, Chat):
            sequence = self._chat(record)
        elif isinstance(record, Completion):
            text, begin = record.prompt + record.completion, len(record.prompt)
            ids = self._end(self._tokenizer.encode(text))
            start = self._token_at(text, ids, begin, True)
            sequence = _weighted(ids, [(start, len(ids))])
        else:
            ids = self._tokenizer.encode(record.text, add_special_tokens=record.begins)
            ids = self._end(ids) if record.ends else ids
            sequence = _weighted(ids, [(0, len(ids))])
        if not sequence.weights[1:].any():
            raise ValueError("no token is left to be learned: the text is too short")
        most = int(sequence.tokens.max())
        if most >= self._vocab_size:
            raise ValueError(
                f"the token {self._tokenizer.token(most)!r} has the id {most}, outside the model's "
                f"vocabulary of {self._vocab_size} tokens: the tokenizer is not the model's, or "
                "got tokens that the model has no embeddings for"
            )
        return sequence

    def _chat(self, record: Chat) -> TokenSequence:
        text, spans = render_turns(
            self._template(),
            record.messages,
            record.trained,
            tools=record.tools,
            variables=record.template_kwargs,
        )
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        found = []
        for begin, end in spans:
            first = self._token_at(text, ids, begin, False)
            last = self._token_at(text, ids, end, False)
            # What a template writes after the end of a turn is never sampled.
            eos = self._tokenizer.eos_token_ids
            found.append((first, next((i + 1 for i in range(first, last) if ids[i] in eos), last)))
        return _weighted(ids, found)

    def _template(self) -> ChatTemplate:
        if self._given_template:
            return self._given_template
        if not self._own_template:
            self._own_template = ChatTemplate.of(self._tokenizer)
        return self._own_template

    def _end(self, ids: list[int]) -> list[int]:
        eos = self._tokenizer.eos_token_ids
        return [*ids, eos[0]] if eos and (not ids or ids[-1] not in eos) else ids

    def _token_at(self, text: str, ids: list[int], position: int, add_special_tokens: bool) -> int:
        """The index of the first token that changes if the text is cut at a character.

        The tokens are always those of the whole text: tokenized in parts, some tokenizers would add
        a space before each part.
        """
        if position == len(text):
            return len(ids)
        check_stop(self._should_stop)
        part = self._tokenizer.encode(text[:position], add_special_tokens=add_special_tokens)
        pairs = enumerate(zip(part, ids, strict=False))
        return next((i for i, (one, other) in pairs if one != other), min(len(part), len(ids)))


def cut(
    sequence: TokenSequence, length: int, *, splits: bool, overlap: int
) -> tuple[TokenSequence, ...]:
    """Cuts a sequence into pieces of at most `length` inputs.

    Args:
      sequence: the tokens to cut.
      length: inputs of a piece, at least 1.
      splits: False returns the first piece only.
      overlap: the inputs of a later piece that repeat the end of the piece before it, without loss;
          less than `length`.

    Returns:
      The pieces. Each target has its loss weight in exactly one piece, unless it was cut off.
    """
    if sequence.num_inputs <= length:
        return (sequence,)
    if not splits:
        return (TokenSequence(sequence.tokens[: length + 1], sequence.weights[: length + 1]),)
    pieces = []
    step = length - overlap
    for begin in range(0, sequence.num_inputs - overlap, step):
        weights = sequence.weights[begin : begin + length + 1].copy()
        if begin:
            weights[: overlap + 1] = 0
        if weights[1:].any():
            pieces.append(TokenSequence(sequence.tokens[begin : begin + length + 1], weights))
    return tuple(pieces)


def _weighted(ids: list[int], spans: Iterable[tuple[int, int]]) -> TokenSequence:
    weights = np.zeros(len(ids), np.float32)
    for begin, end in spans:
        weights[begin:end] = 1
    return TokenSequence(np.asarray(ids, np.int32), weights)
