"""What becomes of cached pages, as vLLM's KV events: stored, removed, all cleared.

Deliberately does not know: who reads them, sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

from flaxen.models.cache import CacheSpec, Latent, Sliding
from flaxen.scheduling.sequence import Sequence as EngineSequence

_MEDIUM = "GPU"  # vLLM's name of the KV cache itself, wherever it is


@final
class PageEvents:
    """Collects events, and hands them over step by step.

    Args:
      specs: of the cache groups.
      page_size: tokens.
      publish: gets the events of a step, in their order.
    """

    def __init__(
        self,
        specs: Sequence[CacheSpec],
        page_size: int,
        publish: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._specs, self._page_size, self._publish = specs, page_size, publish
        self._events: list[dict[str, Any]] = []

    def stored(
        self, sequence: EngineSequence, group: int, begin: int, contents: Iterable[bytes]
    ) -> None:
        """Pages of a sequence can be found now.

        Args:
          sequence: whose tokens they have.
          group: their cache group.
          begin: none of them is before this page of the sequence.
          contents: their hashes, in order.
        """
        for content in contents:
            at = begin = sequence.page_hashes.index(content, begin)
            tokens = sequence.tokens[at * self._page_size : (at + 1) * self._page_size]
            parent = _number(sequence.page_hashes[at - 1]) if at else None
            last = self._events[-1] if self._events else {}
            if (
                last.get("type") != "BlockStored"
                or last["group_idx"] != group
                or last["block_hashes"][-1] != parent
            ):
                last = self._first_of(sequence, group, parent)
                self._events.append(last)
            last["block_hashes"].append(_number(content))
            last["token_ids"] += tokens
            if "extra_keys" in last:  # what a block's hash has beside its tokens
                names = () if sequence.adapter is None else (sequence.adapter.name,)
                salt = (sequence.cache_salt,) if at == 0 and sequence.cache_salt else ()
                last["extra_keys"].append((names + salt) or None)

    def removed(self, group: int, content: bytes) -> None:
        """A page can't be found any more."""
        last = self._events[-1] if self._events else {}
        if last.get("type") == "BlockRemoved" and last["group_idx"] == group:
            last["block_hashes"].append(_number(content))
            return
        self._events.append(
            {
                "type": "BlockRemoved",
                "block_hashes": [_number(content)],
                "medium": _MEDIUM,
                "group_idx": group,
            }
        )

    def cleared(self) -> None:
        """No page can be found any more."""
        self._events.append({"type": "AllBlocksCleared"})

    def flush(self) -> None:
        """Publishes what has happened."""
        if self._events:
            events, self._events = self._events, []
            self._publish(events)

    def _first_of(self, sequence: EngineSequence, group: int, parent: int | None) -> dict[str, Any]:
        """An event of consecutive pages, without any."""
        spec, window = self._specs[group], {}
        kind = "mla_attention" if isinstance(spec, Latent) else "full_attention"
        if isinstance(spec, Sliding):
            kind, window = "sliding_window", {"kv_cache_spec_sliding_window": spec.window}
        name = None if sequence.adapter is None else sequence.adapter.name
        has_keys = name is not None or sequence.cache_salt
        return {
            "type": "BlockStored",
            "block_hashes": [],
            "parent_block_hash": parent,
            "token_ids": [],
            "block_size": self._page_size,
            "lora_id": None,
            "medium": _MEDIUM,
            "lora_name": name,
            **({"extra_keys": []} if has_keys else {}),
            "group_idx": group,
            "kv_cache_spec_kind": kind,
            **window,
        }


def _number(content: bytes) -> int:
    """A hash as vLLM publishes it: its last 64 bits."""
    return int.from_bytes(content[-8:], "big")
