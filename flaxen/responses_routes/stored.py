"""Responses and chats that are kept: their interface, and those that are kept in memory.

Deliberately does not know HTTP or how either is made.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flaxen.responses_routes.items import Item
from flaxen.server.paging import Page, Paging
from flaxen.server.sse import to_json

MAX_ID_CHARS = 64  # of what is kept
Keeps = Callable[[Mapping[str, Any]], bool]  # whether a response or a chat belongs to a list


@dataclass(frozen=True, kw_only=True)
class StoredResponse:
    """A response, and the items of its own input; or a chat, and its messages."""

    response: Mapping[str, Any]  # as it is answered
    items: Sequence[Item]

    @property
    def id(self) -> str:
        """The response's id."""
        return str(self.response["id"])

    @property
    def created_at(self) -> int:
        """When it was made, in seconds since 1970."""
        return int(self.response["created" if "created" in self.response else "created_at"])

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes."""
        return self.response["status"] not in ("queued", "in_progress")

    def text(self) -> str:
        """The text from which `read_stored` makes an equal one."""
        return to_json([self.response, self.items])


def read_stored(text: str) -> StoredResponse:
    """The stored response of a text."""
    response, items = json.loads(text)
    return StoredResponse(response=response, items=items)


class ResponseStore(Protocol):
    """Keeps responses, or chats, by their ids."""

    kept: str  # what is kept and for how long, for people

    async def put(self, stored: StoredResponse) -> None:
        """Keeps a response, in place of an earlier form of it."""

    async def get(self, response_id: str) -> StoredResponse | None:
        """The response of an id; None if it is not kept."""

    async def delete(self, response_id: str) -> bool:
        """Forgets a response. Returns whether it was kept."""

    async def page(self, paging: Paging, keeps: Keeps) -> Page:
        """A page of what is kept, in the order of creation.

        Raises:
          ApiError: as in `Paging.page_of`.
        """


class MemoryStore:
    """Keeps the latest responses in memory, as texts.

    Args:
      max_chars: the most characters of all texts together; the oldest are forgotten first.
    """

    def __init__(self, max_chars: int = 64 * 2**20) -> None:
        self.kept = (
            f"the latest responses, {max_chars / 2**20:g} MiB of them, until the server ends: "
            "--data-dir keeps them in a database"
        )
        self._max_chars = max_chars
        self._num_chars = 0
        self._texts: OrderedDict[str, str] = OrderedDict()

    async def put(self, stored: StoredResponse) -> None:
        """Keeps a response, in place of an earlier form of it."""
        await self.delete(stored.id)
        text = stored.text()
        self._texts[stored.id] = text
        self._num_chars += len(text)
        while self._num_chars > self._max_chars:
            _, oldest = self._texts.popitem(last=False)
            self._num_chars -= len(oldest)

    async def get(self, response_id: str) -> StoredResponse | None:
        """The response of an id; None if it is not kept."""
        text = self._texts.get(response_id)
        return None if text is None else read_stored(text)

    async def delete(self, response_id: str) -> bool:
        """Forgets a response. Returns whether it was kept."""
        text = self._texts.pop(response_id, None)
        self._num_chars -= len(text or "")
        return text is not None

    async def page(self, paging: Paging, keeps: Keeps) -> Page:
        """A page of what is kept, in the order of creation."""
        texts = tuple(self._texts.values())
        return await asyncio.to_thread(_page_of, texts, paging, keeps)


def _page_of(texts: Iterable[str], paging: Paging, keeps: Keeps) -> Page:
    made = sorted(map(read_stored, texts), key=lambda each: (each.created_at, each.id))
    ordered = reversed(made) if paging.newest_first else made
    return paging.page_of(each.response for each in ordered if keeps(each.response))
