"""The likeliest tokens of one position, in eight bytes each; tuples would take a hundred.

Deliberately does not know their origin.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import final, overload

Pair = tuple[int, float]


@final
class TopTokens(Sequence[Pair]):
    """Pairs (token id, log-probability), likeliest first; equal to any sequence of the same pairs.

    Args:
      ids: int32 values.
      logprobs: float32 values.
    """

    __slots__ = ("_ids", "_logprobs")

    def __init__(self, ids: bytes, logprobs: bytes) -> None:
        assert len(ids) == len(logprobs), "a log-probability for each id"
        self._ids, self._logprobs = ids, logprobs

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> TopTokens:
        """Packs pairs."""
        if isinstance(pairs, TopTokens):
            return pairs
        pairs = tuple(pairs)
        ids, logprobs = (array("i", [i for i, _ in pairs]), array("f", [lp for _, lp in pairs]))
        return cls(ids.tobytes(), logprobs.tobytes())

    @property
    def packed(self) -> tuple[bytes, bytes]:
        """The packed ids and log-probabilities."""
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
