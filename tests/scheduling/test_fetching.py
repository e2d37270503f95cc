"""A sequence waits for its stored pages, not for ever, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flaxen.protocol import SamplingParams
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from flaxen.stored_pages import page_store
from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import PageStore
from tests.scheduling.groups import full

CONFIG = EngineConfig(
    max_model_len=64, groups=full(40), page_size=4, max_num_seqs=4, max_num_batched_tokens=64
)


def sequence(name: str, start: int) -> Sequence:
    return Sequence(
        request_id=name, index=0, sampling=SamplingParams(max_tokens=4),
        tokens=list(range(start, start + 17)), num_prompt_tokens=17,
    )  # fmt: skip


def admitted(plan: StepPlan) -> dict[str, int]:
    """Who begins in a step, and from which token on."""
    return {item.sequence.request_id: item.start for item in plan.items if item.load_row}


def fill(scheduler: Scheduler, store: PageStore, sequences: list[Sequence]) -> None:
    """Computes sequences, and stores their pages."""
    for each in sequences:
        scheduler.add(each)
    scheduler.schedule()
    filled = scheduler.pools.stored.take_filled()
    store.put(filled, lambda: [np.zeros((len(filled), 8), np.uint8)])
    store.flush()
    for each in sequences:
        scheduler.end(each)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PageStore]:
    first = PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**6))
    fill(Scheduler(CONFIG, store=first), first, [sequence("a", 0), sequence("b", 100)])
    first.close()
    found = PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**6))
    yield found
    found.close()


@pytest.fixture
def may_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, the disk reads nothing."""
    event, load = threading.Event(), DiskTier.load
    monkeypatch.setattr(DiskTier, "load", lambda *given: event.wait(60) and load(*given))
    yield event
    event.set()


def test_others_go_first_until_the_pages_are_there(
    store: PageStore, may_read: threading.Event
) -> None:
    scheduler = Scheduler(CONFIG, store=store)
    waiting = sequence("a", 0)
    scheduler.add(waiting)
    assert admitted(scheduler.schedule()) == {}
    scheduler.add(sequence("new", 1000))
    assert admitted(scheduler.schedule()) == {"new": 0}
    assert scheduler.num_waiting == 1
    scheduler.wait_for_pages(0.001)
    may_read.set()
    scheduler.wait_for_pages(60)
    assert admitted(scheduler.schedule()) == {"a": 16}
    assert len(scheduler.pools.stored.take_loads()) == 4
    assert waiting.num_cached_tokens == 16
    assert waiting.fetched is None


def test_one_admission_a_step_copies_pages(store: PageStore, may_read: threading.Event) -> None:
    scheduler = Scheduler(CONFIG, store=store)
    for each in (sequence("a", 0), sequence("b", 100)):
        scheduler.add(each)
    scheduler.schedule()  # begins to read
    may_read.set()
    for each in scheduler.waiting():
        assert each.fetched is not None
        each.fetched.wait(60)
    assert admitted(scheduler.schedule()) == {"a": 16}
    assert len(scheduler.pools.stored.take_loads()) == 4
    assert admitted(scheduler.schedule()) == {"b": 16}


def test_a_disk_that_takes_too_long_is_not_waited_for(
    store: PageStore, may_read: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_store, "_MAX_WAIT_S", -1.0)
    fetch, asked = store.fetch, []

    def ask(keys: list[bytes]) -> page_store.Fetch:
        asked.append(keys)
        return fetch(keys)

    monkeypatch.setattr(store, "fetch", ask)
    scheduler = Scheduler(CONFIG, store=store)
    scheduler.add(sequence("a", 0))
    assert admitted(scheduler.schedule()) == {"a": 0}
    assert not may_read.is_set()
    assert len(asked) == 1  # nor for a second time


def test_nothing_is_read_from_a_store_that_was_closed(store: PageStore) -> None:
    store.close()
    scheduler = Scheduler(CONFIG, store=store)
    scheduler.add(sequence("a", 0))
    assert admitted(scheduler.schedule()) == {"a": 0}


def test_a_sequence_that_ends_meanwhile_is_forgotten(
    store: PageStore, may_read: threading.Event
) -> None:
    scheduler = Scheduler(CONFIG, store=store)
    waiting = sequence("a", 0)
    scheduler.add(waiting)
    scheduler.schedule()
    scheduler.end(waiting)
    may_read.set()
    assert admitted(scheduler.schedule()) == {}
    assert not scheduler.has_work


def test_cached_pages_that_go_while_a_sequence_waits_come_from_the_store(
    store: PageStore, may_read: threading.Event
) -> None:
    may_read.set()
    config = replace(CONFIG, groups=full(16), max_num_seqs=2)
    scheduler = Scheduler(config, store=store)
    waiting, long = sequence("a", 0), sequence("long", 1000)
    long.tokens, long.num_prompt_tokens = list(range(1000, 1060)), 60
    scheduler.add(waiting)
    while waiting.row is None:
        scheduler.wait_for_pages(60)
        scheduler.schedule()
    scheduler.pools.stored.take_loads()
    scheduler.end(waiting)  # its pages are cached
    again = sequence("again", 0)
    scheduler.add(long)
    scheduler.add(again)
    assert admitted(scheduler.schedule()) == {"long": 0}  # with all pages but one
    assert again.fetched is not None
    assert again.fetched.pages == {}  # all were cached when it was looked up
    scheduler.end(long)
    found: dict[str, int] = {}
    while not found:
        scheduler.wait_for_pages(60)
        found = admitted(scheduler.schedule())
    assert found == {"again": 16}
    assert len(scheduler.pools.stored.take_loads()) == 3  # the first page was still cached
