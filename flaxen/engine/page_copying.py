"""Copies pages between the device and the store, between two steps.

Deliberately does not know: which pages, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from flaxen.scheduling.cache.stored import StoredPages, by_group
from flaxen.scheduling.executor import Executor
from flaxen.stored_pages.page_store import FilledPage


def copy_pages(
    executor: Executor, stored: StoredPages, filled: Sequence[FilledPage], num_groups: int
) -> None:
    """Reads pages that earlier steps filled, then writes those that the next step needs.

    Args:
      executor: has dispatched the earlier steps, and not the next one, which was planned.
      stored: what is to be copied.
      filled: what was to be read before the plan.
      num_groups: cache groups.
    """
    if filled and stored.store is not None:
        pages: list[list[int]] = [[] for _ in range(num_groups)]
        for each in filled:
            pages[each.group].append(each.page)
        stored.store.put(filled, executor.read_pages(pages))
    stored.report_ended()
    if loads := stored.take_loads():
        executor.write_pages(*by_group(loads, num_groups))


def compile_copies(executor: Executor, num_groups: int) -> None:
    """Compiles the copies, before any step, by copying the first page of each group to itself."""
    for num in (1, 32):  # of which each takes another program
        pages = [[0] * num] * num_groups
        executor.write_pages(pages, [list(each) for each in executor.read_pages(pages)()])
