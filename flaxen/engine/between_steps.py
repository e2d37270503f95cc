"""What other threads ask of the engine's thread: calls between two steps, and when it rests.

Deliberately does not know: what is called, requests.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar, final

Engine = TypeVar("Engine")
Calls = list[tuple[Callable[[Engine], None], Future[None]]]


@final
class BetweenSteps(Generic[Engine]):
    """Calls and waiters. Its user guards `ask`, `wait`, `take` and `rest` with a lock."""

    def __init__(self) -> None:
        self._calls: Calls[Engine] = []
        self._resting: list[Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def ask(self, call: Callable[[Engine], None]) -> Future[None]:
        """Adds a call. Its result, or its error, is the future's."""
        done: Future[None] = Future()
        self._calls.append((call, done))
        return done

    def wait(self) -> Future[None]:
        """Returns a future that is done when the thread rests next."""
        done: Future[None] = Future()
        self._resting.append(done)
        return done

    def take(self) -> Calls[Engine]:
        """The calls to make now."""
        calls, self._calls = self._calls, []
        return calls

    def rest(self) -> None:
        """The thread has nothing to do."""
        resting, self._resting = self._resting, []
        for done in resting:
            done.set_result(None)

    def fail(self, make_error: Callable[[], Exception]) -> None:
        """The thread ends, and will do nothing that was asked."""
        waiting, self._resting = [done for _, done in self.take()] + self._resting, []
        for done in waiting:
            done.set_exception(make_error())


def make_calls(calls: Calls[Engine], engine: Engine) -> None:
    """Makes calls that were taken: each result, or error, is its caller's."""
    for call, done in calls:
        try:
            call(engine)
            done.set_result(None)
        except Exception as error:  # the caller's error
            done.set_exception(error)
