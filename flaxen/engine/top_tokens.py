"""The likeliest tokens of one place, in eight bytes each: as tuples they would take a hundred.

Deliberately does not know where they come from.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import final, overload

Pair = tuple[int, float]


@final
class TopTokens(Sequence[Pair]):
    """(token id, log-probability), likeliest first; equal to any sequence of the same pairs.

    Args:
      ids: int32 each.
      logprobs: float32 each, as models compute them.
    """

    __slots__ = ("_ids", "_logprobs")

    def __init__(self, ids: bytes, logprobs: bytes) -> None:
        assert len(ids) == len(logprobs), "a log-probability for each id"
        self._ids, self._logprobs = ids, logprobs

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> TopTokens:
        """The same, packed."""
        if isinstance(pairs, TopTokens):
            return pairs
        pairs = tuple(pairs)
        ids, logprobs = (array("i", [i for i, _ in pairs]), array("f", [lp for _, lp in pairs]))
        return cls(ids.tobytes(), logprobs.tobytes())

    @property
    def packed(self) -> tuple[bytes, bytes]:
        """What it was made from."""
        return self._ids, self._logprobs

    def __len__(self) -> int:
        return len(self._ids) // 4

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Pair, ...]: ...
    def __getitem__(self, index: int | slice) -> Pair | tuple[Pair, ...]:
        ids = memoryview(self._ids).cast("i")
        logprobs = memoryview(self._logprobs).cast("f")
        if isinstance(index, slice):
            return tuple(zip(ids[index], logprobs[index], strict=True))
        return ids[index], logprobs[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self[:]) == tuple(other)

    def __hash__(self) -> int:
        return hash(self[:])

    def __repr__(self) -> str:
        return repr(self[:])
