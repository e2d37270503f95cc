"""The requests that have not ended: the outputs of their sequences, and their deadlines.

Deliberately does not know: the scheduler, the executor, who reads events.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from flaxen.engine.deadlines import Deadlines
from flaxen.engine.outputs import SequenceOutput
from flaxen.protocol import FinishReason
from flaxen.scheduling.sequence import Sequence


@dataclass(slots=True)
class _Open:
    """A request with sequences that have not ended."""

    outputs: dict[Sequence, SequenceOutput]  # of sequences that have not ended
    worst: FinishReason = FinishReason.STOP


@final
class OpenRequests:
    """Requests by id. Only one thread at a time may change it; `in` is safe from any thread."""

    def __init__(self) -> None:
        self.num_ended = dict.fromkeys(FinishReason, 0)  # requests, by their worst reason
        self._open: dict[str, _Open] = {}
        # Also of requests that have ended.
        self._deadlines: Deadlines[tuple[str, _Open]] = Deadlines()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    def add(self, request_id: str, outputs: Iterable[SequenceOutput], due_s: float | None) -> None:
        """Adds a request with all of its sequences.

        Args:
          request_id: its id, of no open request.
          outputs: one for each sequence.
          due_s: when it must have ended, on the engine's clock; None for never.
        """
        opened = _Open({output.sequence: output for output in outputs})
        if due_s is not None:
            self._deadlines.add(due_s, (request_id, opened))
        self._open[request_id] = opened

    def output(self, sequence: Sequence) -> SequenceOutput:
        """The output of a sequence that has not ended."""
        return self._open[sequence.request_id].outputs[sequence]

    def outputs(self, request_id: str) -> list[SequenceOutput]:
        """The outputs of a request's sequences that have not ended; an unknown id has none."""
        return list(self._open[request_id].outputs.values()) if request_id in self._open else []

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """Removes a sequence; the last one ends its request, with the worst reason of them all."""
        opened = self._open[sequence.request_id]
        del opened.outputs[sequence]
        opened.worst = max(opened.worst, reason, key=list(FinishReason).index)
        if not opened.outputs:
            del self._open[sequence.request_id]
            self.num_ended[opened.worst] += 1

    def pop_due(self, now_s: float) -> list[str]:
        """The ids of open requests whose deadline has passed; each is returned once."""
        due = self._deadlines.pop_due(now_s)
        return [request_id for request_id, opened in due if self._open.get(request_id) is opened]
