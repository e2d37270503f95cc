"""The logprobs and `text_offset` of a completion's tokens, whole or streamed.

Deliberately does not know JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flaxen.protocol import SamplingParams, TokenLogprobs
from flaxen.server.generation.prompts import Prompt
from flaxen.text.detokenize import strips_space
from flaxen.text.offsets import TextOffsets
from flaxen.text.tokenizer import Tokenizer


@dataclass(kw_only=True)
class ScoredTokens:
    """Tokens with their log-probabilities and text offsets."""

    token_ids: list[int] = field(default_factory=list)
    entries: list[TokenLogprobs | None] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


class OffsetWriter:
    """Computes the text offsets of one sequence's tokens: the characters before each.

    A token whose offset is not final yet, because a stop string may cut the text before it, is
    returned by a later push. So a stream has the same offsets as a whole answer, where tokens after
    the end of the text begin at its end.

    Args:
      prompt: the sequence's prompt.
      sampling: determines whether special tokens are part of the text.
      tokenizer: the model's tokenizer.
    """

    def __init__(self, prompt: Prompt, sampling: SamplingParams, tokenizer: Tokenizer) -> None:
        self._prompt = prompt
        self._tokenizer = tokenizer
        special = tokenizer.special_token_ids
        self._hidden = special if sampling.skip_special_tokens else frozenset[int]()
        self._offsets = self._after(0)
        self._length = 0  # length of the text so far, in characters
        self._held = ScoredTokens()

    def echo(self, text: str, entries: Sequence[TokenLogprobs | None]) -> None:
        """Adds the echoed prompt before the output. Must be the first call, if any.

        Args:
          text: the prompt's text as it is echoed.
          entries: one for each token of the prompt; None for the first.
        """
        self._held.token_ids.extend(self._prompt.token_ids)
        self._held.entries.extend(entries)
        self._held.offsets.extend(prompt_offsets(self._prompt, text, self._tokenizer))
        self._length = len(text)
        self._offsets = self._after(len(text))

    def push(
        self,
        text: str,
        token_ids: Sequence[int],
        entries: Sequence[TokenLogprobs | None],
        *,
        is_last: bool,
    ) -> ScoredTokens:
        """Adds output, and returns the tokens whose offsets are final now.

        Args:
          text: the next text of the output.
          token_ids: the next tokens.
          entries: one for each of them.
          is_last: whether this is the end of the output.
        """
        held = self._held
        held.token_ids.extend(token_ids)
        held.entries.extend(entries)
        held.offsets.extend(
            self._offsets.push(token_id, is_hidden=token_id in self._hidden)
            for token_id in token_ids
        )
        self._length += len(text)
        end = len(held.offsets)
        if not is_last:
            end = sum(offset <= self._length for offset in held.offsets)  # offsets never decrease
        self._held = ScoredTokens(
            token_ids=held.token_ids[end:], entries=held.entries[end:], offsets=held.offsets[end:]
        )
        return ScoredTokens(
            token_ids=held.token_ids[:end],
            entries=held.entries[:end],
            offsets=[min(offset, self._length) for offset in held.offsets[:end]],
        )

    def _after(self, start: int) -> TextOffsets:
        strips = strips_space(self._tokenizer, self._prompt.token_ids, self._hidden)
        return TextOffsets(self._tokenizer, strips_space=strips, start=start)


def prompt_offsets(prompt: Prompt, text: str, tokenizer: Tokenizer) -> list[int]:
    """The offset of each token of a prompt in its text.

    The text of a prompt that was sent as text contains the special tokens that were written out in
    it, but not those that the tokenizer added.
    """
    offsets = TextOffsets(tokenizer, strips_space=tokenizer.strips_leading_space)
    found = []
    for token_id in prompt.token_ids:
        is_added = (
            prompt.text is not None
            and token_id in tokenizer.special_token_ids
            and not text.startswith(tokenizer.token(token_id), offsets.num_characters)
        )
        found.append(min(offsets.push(token_id, is_hidden=is_added), len(text)))
    return found
