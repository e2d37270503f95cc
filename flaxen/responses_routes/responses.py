"""What all routes of responses share. Contains no logic of a route."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.responses_routes.runs import Run, Runs
from flaxen.responses_routes.stored import MemoryStore, ResponseStore, StoredResponse
from flaxen.server.body import body_lane
from flaxen.server.errors import ApiError
from flaxen.server.lanes import Lane


@dataclass(frozen=True, kw_only=True)
class Responses:
    """One server's responses: those that are kept, and those that run in the background. Beside
    them the chats that are kept.
    """

    store: ResponseStore = field(default_factory=MemoryStore)
    runs: Runs = field(default_factory=Runs)
    chats: ResponseStore = field(default_factory=MemoryStore)
    bodies: Lane = field(default_factory=body_lane)  # of the routes that need no model

    def running(self, response_id: str) -> Run | None:
        """The run of a response that has not ended."""
        run = self.runs.get(response_id)
        return None if run is None or run.is_over else run

    async def find(self, response_id: str) -> StoredResponse:
        """A response as it is now.

        Raises:
          ApiError: 404, it is not kept.
        """
        run = self.running(response_id)
        stored = None if run is None else run.snapshot()
        stored = stored or await self.store.get(response_id)
        if stored is None:
            raise ApiError(
                404,
                f"Response with id {response_id[:80]!r} not found.",
                param="response_id",
                code="not_found",
            )
        return stored
