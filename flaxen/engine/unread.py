"""The unread events of one request: a few for each sequence, however many arrived.

A reader that keeps up, or is only a moment late, gets each event separately. For a slower reader,
later events of a sequence are merged and packed into few bytes; nothing is lost.

Deliberately does not know threads, event loops, limits.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from flaxen.protocol import Finish, TokenEvent, TokenLogprobs, TopTokens

_NUM_APART = 8  # events of a sequence that are kept separately
_EVENT_BYTES = 512  # approximate fixed size of an event
_TOKEN_BYTES = 4
_LOGPROB_BYTES = 20  # of a token, without the likeliest tokens of its position
_TOP_BYTES = 8  # of each likeliest token


class Unread:
    """A queue of token events that merges events to stay short.

    Args:
      num_apart: how many events of a sequence are kept separately; later ones are merged into the
          last.
    """

    def __init__(self, num_apart: int = _NUM_APART) -> None:
        self.num_bytes = 0  # approximate
        self._num_apart = num_apart
        # By sequence, in the order in which they are read.
        self._waiting: dict[int, deque[TokenEvent | _Joined]] = {}

    def put(self, event: TokenEvent) -> None:
        """Adds an event."""
        queue = self._waiting.setdefault(event.index, deque())
        self.num_bytes += _size(event)
        if len(queue) < self._num_apart:
            self.num_bytes += _EVENT_BYTES
            queue.append(event)
            return
        last = queue[-1]
        if isinstance(last, TokenEvent):
            last = queue[-1] = _Joined(last)
        last.add(event)

    def take(self) -> TokenEvent | None:
        """Removes and returns the next event; None if there is none."""
        if not self._waiting:
            return None
        index = next(iter(self._waiting))
        queue = self._waiting.pop(index)
        found = queue.popleft()
        if queue:
            self._waiting[index] = queue
        event = found if isinstance(found, TokenEvent) else found.event()
        self.num_bytes -= _size(event) + _EVENT_BYTES
        return event

    def clear(self) -> None:
        """Removes all events."""
        self._waiting.clear()
        self.num_bytes = 0


def _size(event: TokenEvent) -> int:
    scored = [*(event.logprobs or ()), *(event.prompt_logprobs or ())]
    tops = sum(len(each.top) for each in scored if each is not None)
    num_bytes = len(event.text) + _TOKEN_BYTES * len(event.token_ids)
    return num_bytes + _LOGPROB_BYTES * len(scored) + _TOP_BYTES * tops


@dataclass(slots=True)
class _PackedLogprobs:
    """Log-probabilities of tokens, stored in columns."""

    token_ids: array[int] = field(default_factory=lambda: array("i"))
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    ranks: array[int] = field(default_factory=lambda: array("i"))
    kept_masses: dict[int, float] = field(default_factory=dict)  # by place: none in most modes
    num_tops: array[int] = field(default_factory=lambda: array("i"))
    top_ids: bytearray = field(default_factory=bytearray)
    top_logprobs: bytearray = field(default_factory=bytearray)

    def add(self, token: TokenLogprobs) -> None:
        ids, logprobs = TopTokens.of(token.top).packed
        if token.kept_mass is not None:
            self.kept_masses[len(self.token_ids)] = token.kept_mass
        self.token_ids.append(token.token_id)
        self.logprobs.append(token.logprob)
        self.ranks.append(token.rank)
        self.num_tops.append(len(token.top))
        self.top_ids += ids
        self.top_logprobs += logprobs

    def tokens(self) -> tuple[TokenLogprobs, ...]:
        ends = pairwise(accumulate(self.num_tops, initial=0))
        tops = [
            TopTokens(bytes(self.top_ids[4 * i : 4 * j]), bytes(self.top_logprobs[4 * i : 4 * j]))
            for i, j in ends
        ]
        masses = map(self.kept_masses.get, range(len(self.token_ids)))
        columns = zip(self.token_ids, self.logprobs, self.ranks, tops, masses, strict=True)
        return tuple(
            TokenLogprobs(token_id=token_id, logprob=logprob, rank=rank, top=top, kept_mass=mass)
            for token_id, logprob, rank, top, mass in columns
        )


class _Joined:
    """Several events of one sequence, merged."""

    def __init__(self, first: TokenEvent) -> None:
        assert first.finish is None, "an event after the last"
        self._first = replace(first, token_ids=(), text="", logprobs=None)
        self._token_ids = array("i")
        self._texts = bytearray()  # UTF-8
        self._logprobs: _PackedLogprobs | None = None
        self._finish: Finish | None = None
        self._append(first)

    def add(self, event: TokenEvent) -> None:
        assert event.prompt_logprobs is None, "they come with the first event"
        self._append(event)

    def _append(self, event: TokenEvent) -> None:
        self._token_ids.extend(event.token_ids)
        self._texts += event.text.encode("utf-8", "surrogatepass")
        if event.logprobs is not None:
            self._logprobs = self._logprobs or _PackedLogprobs()
            for token in event.logprobs:
                self._logprobs.add(token)
        self._finish = event.finish

    def event(self) -> TokenEvent:
        return replace(
            self._first,
            token_ids=tuple(self._token_ids),
            text=self._texts.decode("utf-8", "surrogatepass"),
            logprobs=None if self._logprobs is None else self._logprobs.tokens(),
            finish=self._finish,
        )
