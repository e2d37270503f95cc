"""Suffix decoding: what most often followed the longest match of the last tokens, in the sequence
itself and in the outputs of requests that have ended.

The method is that of https://arxiv.org/abs/2411.04975. In place of a tree of all suffixes there is
an index of n-grams, and of the tree only the branches below the matches are built, when they are
asked for. Deliberately does not know: steps, when drafts pay.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence as Ids
from itertools import takewhile
from typing import final

from flaxen.engine.speculative.config import SpeculativeConfig
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.occurrences import Occurrences, match_length
from flaxen.scheduling.sequence import Sequence

_SHORTEST = 3  # tokens of a match
_MOST_LOOKED_AT = 12  # occurrences of the last tokens, in each text
_MOST_KEPT_TOKENS = 2**18  # of ended requests; each takes some 200 bytes
_END = -1  # after the output of each request; no token

_Key = tuple[str, str | None]  # the cache salt and the adapter of requests that share outputs


class _Text:
    """Tokens, and where they repeat."""

    def __init__(self, tokens: Ids[int]) -> None:
        self.tokens = tokens
        self._index = Occurrences(_SHORTEST)

    def matches(self, tail: Ids[int], end: int, most: int) -> list[tuple[int, int]]:
        """The lengths and ends of matches of the last tokens, among the text's first `end`."""
        self._index.index(self.tokens, end)
        ends = self._index.ends(tuple(tail[-_SHORTEST:]), _MOST_LOOKED_AT)
        return [(match_length(self.tokens, at, tail, _SHORTEST, most), at) for at in ends]


class _Kept:
    """Outputs of requests that have ended."""

    def __init__(self) -> None:
        self.texts: dict[_Key, _Text] = {}
        self.num_requests = self.num_tokens = 0

    def add(self, key: _Key, output: Ids[int]) -> None:
        """Adds the output of a request."""
        text = self.texts.setdefault(key, _Text(array("i")))
        assert isinstance(text.tokens, array)
        text.tokens.extend((*output, _END))
        self.num_requests, self.num_tokens = self.num_requests + 1, self.num_tokens + len(output)


@final
class Suffixes(Drafter):
    """The drafter `suffix`. Requests only see outputs of those with their cache salt and adapter.

    Args:
      config: the bounds of matches, drafts, and of what is kept.
    """

    def __init__(self, config: SpeculativeConfig) -> None:
        self._config = config
        self._own: dict[Sequence, _Text] = {}
        # The last requests, and those before them: the older half is dropped at once.
        self._newer, self._older = _Kept(), _Kept()

    def propose(self, wanted: Mapping[Sequence, int]) -> Mapping[Sequence, Ids[int]]:
        return {sequence: self._continuation(sequence, most) for sequence, most in wanted.items()}

    def end(self, sequence: Sequence) -> None:
        self._own.pop(sequence, None)
        output = sequence.tokens[sequence.num_prompt_tokens :]
        most = self._config.suffix_decoding_max_cached_requests
        if len(output) <= _SHORTEST or most == 0:
            return
        newer = self._newer
        newer.add(_key(sequence), output)
        if 2 * newer.num_requests >= most or 2 * newer.num_tokens >= _MOST_KEPT_TOKENS:
            self._newer, self._older = _Kept(), newer

    def _continuation(self, sequence: Sequence, most: int) -> Ids[int]:
        tokens, depth = sequence.tokens, self._config.suffix_decoding_max_tree_depth
        own = self._own.get(sequence)
        if own is None:
            own = self._own[sequence] = _Text(tokens)
        found = [(length, own, at) for length, at in own.matches(tokens, len(tokens) - 1, depth)]
        for kept in (self._newer, self._older):
            text = kept.texts.get(_key(sequence))
            if text is not None:
                matches = text.matches(tokens, len(text.tokens) - 1, depth)
                found += [(length, text, at) for length, at in matches]
        longest = max((length for length, _, _ in found), default=0)
        branches = [(text.tokens, at) for length, text, at in found if length == longest]
        return self._likeliest(branches, min(most, self._longest_draft(longest)))

    def _longest_draft(self, matched: int) -> int:
        """The most tokens to draft from a match: match and draft together are as long as the tree
        is deep, so a longer match may be looked at as a shorter one.
        """
        factor, depth = (
            self._config.suffix_decoding_max_spec_factor,
            self._config.suffix_decoding_max_tree_depth,
        )
        used = min(matched, int(depth / (1 + factor)))
        return min(int(factor * used), depth - used)

    def _likeliest(self, branches: list[tuple[Ids[int], int]], most: int) -> list[int]:
        """The likeliest continuation, as long as it is likely enough by how often it was one."""
        drafted: list[int] = []
        chance = 1.0
        while branches and len(drafted) < most:
            if len(branches) == 1:  # its tokens are as likely as the last one
                [(text, at)] = branches
                rest = text[at : at + most - len(drafted)]
                return [*drafted, *takewhile(_END.__ne__, rest)]
            nexts = [text[at] if at < len(text) else _END for text, at in branches]
            token_id, count = Counter(nexts).most_common(1)[0]
            chance *= count / len(nexts)
            if token_id == _END or chance < self._config.suffix_decoding_min_token_prob:
                break
            drafted.append(token_id)
            branches = [
                (text, at + 1)
                for (text, at), each in zip(branches, nexts, strict=True)
                if each == token_id
            ]
        return drafted


def _key(sequence: Sequence) -> _Key:
    adapter = sequence.adapter
    return sequence.cache_salt, None if adapter is None else adapter.key
