"""LearnedSignals: finds the signals of a recipe that need a model, within a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.finder import LearnedFinder
from flaxen.learned_signals.head import HeadStack
from flaxen.learned_signals.reading import Reading
from flaxen.learned_signals.windows import Vectors
from flaxen.protocol import EngineBrokenError, EngineBusyError, EngineClosedError
from flaxen.router.decisions.tree import SignalKey
from flaxen.router.request import RoutedRequest
from flaxen.router.selection.neighbours import Examples
from flaxen.router.signals.found import Found, unknown

# What says why a signal is unknown, and is no fault of ours.
_EXPECTED = (EngineBusyError, EngineBrokenError, EngineClosedError, RuntimeError, ValueError)


class LearnedSignals:
    """The signals of one recipe that need a model; `making.learned_signals` makes them.

    Args:
      encoder: which reads texts.
      finders: by the type of conditions.
      heads: all of them.
      timeout_s: after which a signal is unknown. What is computed then is kept for the next time.

    Attributes:
      examples: what requests are compared to by the algorithm knn; None: nothing.
    """

    examples: Examples | None = None

    def __init__(
        self,
        encoder: Encoder,
        finders: Mapping[str, LearnedFinder],
        heads: HeadStack,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        self._encoder, self._finders, self._heads = encoder, finders, heads
        self._timeout_s = timeout_s

    async def find(
        self, request: RoutedRequest, wanted: Sequence[tuple[str, str]]
    ) -> Mapping[SignalKey, Found]:
        """What rules found in a request: for each type and name that is wanted.

        All kinds are computed at once, and a text that several read goes through the encoder once.
        A kind that fails, or takes longer than the time there is, is unknown, with the reason.

        Raises:
          KeyError: no rule has this name.
        """
        readings: dict[str, asyncio.Task[Reading]] = {}

        async def read(text: str) -> Reading:
            if text not in readings:
                readings[text] = asyncio.create_task(self._read(text))
            return await readings[text]

        conditions = list(dict.fromkeys(condition for condition, _ in wanted))
        tasks = {
            condition: asyncio.ensure_future(self._finders[condition].find(request, read))
            for condition in conditions
        }
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=self._timeout_s)
            results = {condition: self._result(task) for condition, task in tasks.items()}
        finally:
            for task in (*tasks.values(), *readings.values()):
                task.cancel()
        found: dict[SignalKey, Found] = {}
        for condition, name in wanted:
            result = results[condition]
            key = SignalKey(condition, name)
            found[key] = result if isinstance(result, Found) else result[name]
        return found

    async def vector(self, text: str) -> Vectors:
        """The vector of a whole text, [dimensions], of length 1; raises as the encoder."""
        return (await self._encoder.windows(text)).pooled

    async def _read(self, text: str) -> Reading:
        windows = await self._encoder.windows(text, with_pieces=self._heads.reads_pieces)
        return Reading(windows, self._heads, self._encoder.alone)

    def _result(self, task: asyncio.Future[Any]) -> Mapping[str, Found] | Found:
        if not task.done():
            return unknown(f"the encoder took longer than {self._timeout_s:g} s")
        error = task.exception()
        if error is None:
            results: Mapping[str, Found] = task.result()
            return results
        if isinstance(error, _EXPECTED):
            return unknown(str(error))
        raise error
