"""Runs one request on an engine of this process, for commands that show its text as it comes.

Deliberately does not know the terminal.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import Request, TokenEvent


def run_request(
    engine: SteppedEngine, request: Request
) -> Generator[Sequence[TokenEvent], None, None]:
    """Yields a request's events of each step: none while its prompt is computed.

    The engine is idle afterwards, also if the caller stops early.

    Raises:
      ValueError: the engine can't serve the request.
    """
    engine.add(engine.check(request))
    try:
        while engine.has_work:
            yield engine.step()
    finally:
        engine.abort(request.request_id)  # no effect if the request has ended
        while engine.has_work:
            engine.step()
