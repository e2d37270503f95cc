"""Runs a batch of requests to their ends on an engine, in the calling thread.

Deliberately does not know what the requests are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from flaxen.engine.stepped import SteppedEngine
from flaxen.progress_bar import ProgressBar
from flaxen.protocol import TokenEvent
from flaxen.scheduling.checked import CheckedRequest


class Collected(Protocol):
    """Collects the events of one request into the output that a caller of `LLM` gets."""

    @property
    def finished(self) -> bool:
        """Whether the request has ended."""

    def add(self, event: TokenEvent) -> None:
        """Adds an event of the request."""


Output = TypeVar("Output", bound=Collected)


def run_batch(
    engine: SteppedEngine,
    requests: Sequence[CheckedRequest],
    outputs: Mapping[str, Output],
    use_tqdm: bool | Callable[[int, int], None],
) -> list[Output]:
    """Runs requests until all have ended, and returns their outputs in order.

    After an exception the engine has none of them.

    Args:
      engine: the engine, which nobody else uses meanwhile.
      requests: the requests, of which as many wait in the engine as it has room for.
      outputs: what collects the events of each, by the request's id.
      use_tqdm: as in `LLM.generate`.
    """
    todo = list(reversed(requests))
    num_done = 0
    with ProgressBar(use_tqdm, len(requests)) as bar:
        try:
            while num_done < len(requests):
                while todo and engine.has_room(todo[-1].request.sampling.n):
                    engine.add(todo.pop())
                for event in engine.step():
                    output = outputs[event.request_id]
                    output.add(event)
                    num_done += output.finished
                bar.show(num_done)
        except BaseException:  # also Ctrl-C: no request of this call may stay in the engine
            for request_id in outputs:
                engine.abort(request_id)
            while engine.has_work:
                engine.step()
            raise
    return list(outputs.values())
