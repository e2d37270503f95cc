"""Divides the memory of the KV cache among the cache groups (decision 0220).

Deliberately does not know: JAX, how much memory there is, its use.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flaxen.models.cache import CacheSpec, Sliding, State
from flaxen.scheduling.cache.groups import CacheGroup, group_layers, most_pages, page_bytes


@dataclass(frozen=True, kw_only=True)
class _Demand:
    """The pages that a group needs."""

    spec: CacheSpec
    layers: tuple[int, ...]
    page_bytes: int
    least: int  # pages, the minimum for one sequence
    most: int  # pages, the most that running sequences can use
    share: Fraction  # the group's largest share of a sequence's bytes, over all lengths


@dataclass(frozen=True, kw_only=True)
class CacheSizes:
    """A model's cache specs, and the engine's sizes."""

    specs: Sequence[CacheSpec]  # one for each layer
    page_size: int  # tokens
    itemsize: int  # bytes of one number
    chunk: int  # the most tokens that a step computes
    max_num_seqs: int  # the most sequences that run at once

    def divide(self, num_bytes: int, max_model_len: int) -> tuple[CacheGroup, ...]:
        """Divides the memory: returns the groups, with the pages of each.

        Each group gets its share, but at least the pages of one sequence of full length, and at
        most those of all running sequences of full length as long as another group can use more.

        Raises:
          ValueError: the memory is too small for one sequence of max_model_len tokens.
        """
        demands = self._demands(max_model_len)
        least = sum(each.least * each.page_bytes for each in demands)
        if least > num_bytes:
            raise ValueError(
                f"the KV cache of {num_bytes} bytes does not hold one sequence of max_model_len "
                f"({max_model_len}), which needs {least}: lower max_model_len to at most "
                f"{self.longest(num_bytes, max_model_len)} or give it more memory"
            )
        pages = _fill(num_bytes, demands)
        return tuple(
            CacheGroup(spec=each.spec, layers=each.layers, num_pages=num_pages)
            for each, num_pages in zip(demands, pages, strict=True)
        )

    def most_bytes(self, max_model_len: int) -> int:
        """The bytes that all running sequences can use."""
        return sum(each.most * each.page_bytes for each in self._demands(max_model_len))

    def least_bytes(self, num_tokens: int) -> int:
        """The bytes that one sequence of `num_tokens` needs, with the State of every row."""
        return sum(each.least * each.page_bytes for each in self._demands(num_tokens))

    def longest(self, num_bytes: int, most: int) -> int:
        """The length of the longest sequence that fits into `num_bytes`, at most `most` tokens; 0
        if none fits. Windows and states do not grow with the length, so there may be no limit.
        """
        return self._longest(num_bytes, most, self.least_bytes)

    def longest_at_once(self, num_bytes: int, most: int) -> int:
        """The length that all running sequences can have at once, as in `longest`."""
        return self._longest(num_bytes, most, self.most_bytes)

    def _longest(self, num_bytes: int, most: int, needed: Callable[[int], int]) -> int:
        lengths = range(self.page_size, most + self.page_size, self.page_size)
        return min(most, self.page_size * bisect_right(lengths, num_bytes, key=needed))

    def _demands(self, max_model_len: int) -> list[_Demand]:
        layers = group_layers(self.specs)
        sizes = {
            spec: page_bytes(spec, len(layers[spec]), self.page_size, self.itemsize)
            for spec in layers
        }
        return [
            _Demand(
                spec=spec,
                layers=layers[spec],
                page_bytes=size,
                least=self._least(spec, max_model_len),
                most=self._most(spec, max_model_len),
                share=self._share(spec, sizes, max_model_len),
            )
            for spec, size in sizes.items()
        ]

    def _least(self, spec: CacheSpec, num_tokens: int) -> int:
        if isinstance(spec, State):
            return self.max_num_seqs
        return most_pages(spec, num_tokens, self.chunk, self.page_size)

    def _most(self, spec: CacheSpec, max_model_len: int) -> int:
        if isinstance(spec, State):
            return self.max_num_seqs
        # Long sequences use all pages of the window, and one more for each must stay free.
        return self.max_num_seqs * (self._least(spec, max_model_len) + isinstance(spec, Sliding))

    def _share(self, spec: CacheSpec, sizes: dict[CacheSpec, int], max_model_len: int) -> Fraction:
        """The group's largest share: at its own window or at full length; 0 for a State."""
        if isinstance(spec, State):
            return Fraction(0)
        own = spec.window + self.chunk if isinstance(spec, Sliding) else max_model_len
        length = min(own, max_model_len)
        num_bytes = {
            each: most_pages(each, length, self.chunk, self.page_size) * size
            for each, size in sizes.items()
            if not isinstance(each, State)
        }
        return Fraction(num_bytes[spec], sum(num_bytes.values()))


def _fill(num_bytes: int, demands: list[_Demand]) -> list[int]:
    """Divides bytes into pages by shares, limited to each group's least and most.

    A group whose share is outside its limits gets the nearer limit, one group after the other, and
    the others share the rest. Memory that no running sequence can use holds more cached prefixes.
    """
    pages = [each.least for each in demands]
    left = num_bytes - sum(each.least * each.page_bytes for each in demands if not each.share)
    sharing = [i for i, each in enumerate(demands) if each.share]
    open_ = sharing
    while open_:
        parts = _parts(left, demands, open_)
        low = {i: demands[i].least for i in open_ if parts[i] < demands[i].least}
        high = {i: demands[i].most for i in open_ if parts[i] > demands[i].most}
        if not low and not high:
            break
        num_short = sum((least - parts[i]) * demands[i].page_bytes for i, least in low.items())
        num_over = sum((parts[i] - most) * demands[i].page_bytes for i, most in high.items())
        settled = low if num_short >= num_over else high
        for i, num in settled.items():
            pages[i] = num
            left -= num * demands[i].page_bytes
        open_ = [i for i in open_ if i not in settled]
    for i, part in _parts(left, demands, open_ or sharing).items():
        pages[i] = math.floor(part) + (0 if open_ else pages[i])
    return pages


def _parts(num_bytes: int, demands: list[_Demand], among: list[int]) -> dict[int, Fraction]:
    """The pages of some groups if bytes are divided by their shares."""
    total = sum((demands[i].share for i in among), Fraction(0))
    return {i: num_bytes * demands[i].share / total / demands[i].page_bytes for i in among}
