"""Chooses the data replica that computes a request (decision 0284).

Deliberately does not know: engines, steps, devices.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from flaxen.scheduling.cache.pages import extend_hashes, root_hash
from flaxen.scheduling.checked import CheckedRequest

# Tokens that an answer is expected to have at most: a limit of tens of thousands is seldom reached.
_EXPECTED_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class _Open:
    replica: int
    num_tokens: int


@final
class ReplicaChoice:
    """Chooses the replica whose open requests have the fewest tokens, the new one's own included.

    The tokens of an open request count until it ends. Those of a prompt that the replica has in its
    cache do not count, so a request goes to the replica with its longest prefix, until the other
    requests there are more than the prefix saves.

    The replicas are not asked for their caches: this object remembers the prompts that each was
    sent. A prefix counts from the moment that a request with it is sent, so that several requests
    with one new prompt meet on one replica.

    Args:
      num_replicas: how many there are.
      page_size: tokens of a page of the KV cache.
      num_pages: the pages that are remembered, least recently used first to be forgotten; 0 if
          replicas find no prefixes.
    """

    def __init__(self, num_replicas: int, page_size: int, num_pages: int) -> None:
        self._page_size, self._num_pages = page_size, num_pages
        self._open: dict[str, _Open] = {}
        self._num_left = [0] * num_replicas  # tokens of the open requests
        # The replicas that had a request with this page, by the page's hash; bit i is replica i.
        self._pages: OrderedDict[bytes, int] = OrderedDict()

    def choose(self, checked: CheckedRequest, replicas: Iterable[int]) -> int:
        """Chooses one of the replicas, and counts the request as open there."""
        hashes = self._hashes(checked)
        found = {each: self._num_tokens(checked, hashes, each) for each in replicas}
        replica = min(found, key=lambda each: self._num_left[each] + found[each])
        self._open[checked.request.request_id] = _Open(replica=replica, num_tokens=found[replica])
        self._num_left[replica] += found[replica]
        self._remember(hashes, replica)
        return replica

    def ended(self, request_id: str) -> None:
        """The request has ended; an unknown id is ignored."""
        ended = self._open.pop(request_id, None)
        if ended is not None:
            self._num_left[ended.replica] -= ended.num_tokens

    def forget(self) -> None:
        """No prefix is cached any more."""
        self._pages.clear()

    def _num_tokens(self, checked: CheckedRequest, hashes: list[bytes], replica: int) -> int:
        """The tokens of a request that a replica would compute."""
        num_cached = 0
        for each in hashes:
            if not self._pages.get(each, 0) >> replica & 1:
                break
            num_cached += self._page_size
        sampling = checked.request.sampling
        limit = _EXPECTED_TOKENS if sampling.max_tokens is None else sampling.max_tokens
        num_prompt_tokens = len(checked.request.prompt_token_ids)
        return num_prompt_tokens - num_cached + sampling.n * min(limit, _EXPECTED_TOKENS)

    def _hashes(self, checked: CheckedRequest) -> list[bytes]:
        """The hashes of a prompt's full pages. Adapters and cache salts share none."""
        hashes: list[bytes] = []
        if self._num_pages:
            request, adapter = checked.request, checked.adapter
            root = root_hash(request.cache_salt, adapter="" if adapter is None else adapter.key)
            tokens = list(request.prompt_token_ids)
            extend_hashes(hashes, tokens, self._page_size, root, request.prompt_embeds)
        return hashes

    def _remember(self, hashes: list[bytes], replica: int) -> None:
        for each in reversed(hashes):  # a prefix is forgotten from its end
            self._pages[each] = self._pages.pop(each, 0) | 1 << replica
        while len(self._pages) > self._num_pages:
            self._pages.popitem(last=False)
