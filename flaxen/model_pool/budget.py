"""Divides one budget of memory among models: how much each may take for weights and KV cache
(decision 0299).

Deliberately does not know: which models are loaded, how much memory the machine has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """The memory that one model needs."""

    name: str
    weight_bytes: int  # with those of its stored pages in the same memory
    least_bytes: int  # of a KV cache in which one sequence of full length fits
    wanted_bytes: int  # of the KV cache that the model would have alone in a large memory


@dataclass(frozen=True, kw_only=True)
class Division:
    """What each model may take, in the order of the models."""

    num_bytes: tuple[int, ...]  # weights, stored pages and KV cache
    fits_at_once: bool  # whether all models can be loaded at once; otherwise they take turns


def divide_budget(
    budget_bytes: int, needs: Sequence[MemoryNeed], *, stays: bool = False
) -> Division:
    """Divides the budget.

    If all models fit at once, each with one sequence of full length, they share what is left
    equally, and none takes more than it wants. Otherwise they take turns: each may have a KV cache
    of half of what its own weights leave, as a model alone has of the free memory.

    Args:
      budget_bytes: the memory for all models.
      needs: at least one.
      stays: whether the first model is never unloaded; the others then take turns beside it.

    Raises:
      ValueError: the weights of a model don't fit.
    """
    at_once = sum(each.weight_bytes + each.least_bytes for each in needs)
    if at_once <= budget_bytes:
        return Division(num_bytes=_shares(budget_bytes - at_once, needs), fits_at_once=True)
    first: list[int] = []
    left, turning = budget_bytes, list(needs)
    if stays:
        first = [_turn(budget_bytes, needs[0])]
        left, turning = budget_bytes - first[0], turning[1:]
    shares = (*first, *(_turn(left, each) for each in turning))
    return Division(num_bytes=shares, fits_at_once=False)


def _shares(left: int, needs: Sequence[MemoryNeed]) -> tuple[int, ...]:
    """Each model's least, and an equal part of what is left as far as it wants it."""
    more = dict.fromkeys(range(len(needs)), 0)
    by_wish = sorted(more, key=lambda i: needs[i].wanted_bytes - needs[i].least_bytes)
    for place, index in enumerate(by_wish):  # who wants little leaves more to the others
        need = needs[index]
        wish = max(0, need.wanted_bytes - need.least_bytes)
        more[index] = min(wish, left // (len(by_wish) - place))
        left -= more[index]
    return tuple(need.weight_bytes + need.least_bytes + more[i] for i, need in enumerate(needs))


def _turn(budget_bytes: int, need: MemoryNeed) -> int:
    left = budget_bytes - need.weight_bytes
    if left <= 0:
        raise ValueError(
            f"the weights of {need.name} take {need.weight_bytes / 2**20:,.1f} MiB with the pages "
            "that it may store (--kv-offload-bytes), and the memory for models has "
            f"{max(0, budget_bytes) / 2**20:,.1f} MiB for it: give more with --models-memory, "
            "store fewer pages, or take a smaller or quantized model"
        )
    return need.weight_bytes + min(need.wanted_bytes, left, max(need.least_bytes, left // 2))
