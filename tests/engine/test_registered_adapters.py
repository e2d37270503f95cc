"""Adapters that are read when they are first used, and leave memory when the room is needed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from flaxen.engine.core import Engine
from flaxen.protocol import AdapterSource
from flaxen.scheduling.adapters.store import AdapterStore
from flaxen.scheduling.config import LoraLimits
from flaxen.weights.adapters.adapter import Adapter
from tests.engine.fakes import Ends, add, fake_engine, run_out
from tests.engine.test_adapters import CONFIG, ask, said, weights


class Shelf:
    """Where adapters are read from: a<alpha> has that alpha. Counts."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def source(self, alpha: int, rank: int = 1) -> AdapterSource:
        def read() -> Adapter:
            self.reads.append(alpha)
            return weights(alpha, rank)

        return AdapterSource(rank=rank, created=1_700_000_000 + alpha, read=read)


def engine_with(shelf: Shelf, *alphas: int, max_cpu_loras: int | None = None) -> Engine:
    lora = LoraLimits(max_loras=2, max_lora_rank=4, max_cpu_loras=max_cpu_loras)
    engine = fake_engine(replace(CONFIG, lora=lora))
    for alpha in alphas:
        engine.adapters.register(f"a{alpha}", shelf.source(alpha))
    return engine


def in_memory(engine: Engine) -> list[str]:
    return [each.name for each in engine.known_adapters() if each.is_in_memory]


def use(engine: Engine, *names: str) -> None:
    """Runs a request with each, one after the other, and others that take both slots."""
    for name in names:
        ends = Ends()
        add(engine, ask("r", name))
        run_out(engine, ends)
        assert ends.tokens["r", 0] == said(int(name[1:]))


def test_they_are_read_when_they_are_first_used() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1, 2, 3)
    infos = engine.known_adapters()
    assert [(each.name, each.rank, each.created - 1_700_000_000) for each in infos] == [
        ("a1", 1, 1), ("a2", 1, 2), ("a3", 1, 3)
    ]  # fmt: skip
    assert not any(each.is_in_memory or each.is_on_device for each in infos)
    assert shelf.reads == []
    use(engine, "a2", "a2", "a1", "a2")
    assert shelf.reads == [2, 1]
    assert in_memory(engine) == ["a1", "a2"]


def test_the_least_recently_used_leave_when_memory_is_full() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1, 2, 3, 4, 5, max_cpu_loras=2)
    use(engine, "a1", "a2", "a1", "a3")  # a2 leaves memory, and then its slot
    use(engine, "a4", "a5")
    assert shelf.reads == [1, 2, 3, 4, 5]
    assert in_memory(engine) == ["a4", "a5"]
    use(engine, "a2", "a1")
    assert shelf.reads[5:] == [2, 1]
    assert in_memory(engine) == ["a1", "a2"]


def test_without_a_limit_sixteen_stay() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, *range(1, 21))
    use(engine, *(f"a{alpha}" for alpha in range(1, 21)))
    assert in_memory(engine) == [f"a{alpha}" for alpha in range(5, 21)]


def test_loaded_ones_are_never_let_go_and_never_hold_up_the_others() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1, 2, 3, max_cpu_loras=2)
    use(engine, "a1", "a2")
    engine.adapters.load("a7", weights(7))  # a1 makes room
    engine.adapters.load("a8", weights(8))
    with pytest.raises(ValueError, match="2 adapters are loaded, as many as max_cpu_loras allows"):
        engine.adapters.load("a9", weights(9))
    use(engine, "a7", "a8")  # in both slots
    assert in_memory(engine) == ["a7", "a8"]
    use(engine, "a1", "a2", "a3")  # each is read, runs, and leaves
    engine.adapters.register("a4", shelf.source(4))
    use(engine, "a4", "a7", "a8")
    assert in_memory(engine) == ["a7", "a8"]
    engine.adapters.unload("a7")
    use(engine, "a3")
    assert in_memory(engine) == ["a3", "a8"]


def test_who_runs_with_one_keeps_it_and_it_is_not_read_beside_them() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1, 2, 3, max_cpu_loras=2)
    engine.adapters.load("a9", weights(9))  # room for one more
    add(engine, ask("long", "a1", max_tokens=12))
    ends = Ends()
    ends.take(engine.step())
    held = engine.adapters.find("a2")
    assert engine.adapters.find("a3").name == "a3"
    assert engine.adapters.find("a2") is held
    assert engine.adapters.find("a1").key.endswith("/a1#1")
    assert shelf.reads == [1, 2, 3]
    run_out(engine, ends)
    assert ends.tokens["long", 0] == said(1, 12)


@pytest.mark.parametrize("action", ["unload", "remove"])
def test_unloading_ends_the_weights_and_removing_the_name(action: str) -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1, 2)
    add(engine, ask("runs", "a1", max_tokens=6))
    ends = Ends()
    ends.take(engine.step())
    add(engine, ask("waits", "a1"))
    getattr(engine.adapters, action)("a1")
    assert in_memory(engine) == []
    run_out(engine, ends)
    assert (ends.tokens["runs", 0], ends.tokens["waits", 0]) == (said(1, 6), said(1))
    if action == "unload":
        use(engine, "a1")
        assert shelf.reads == [1, 1]
        return
    with pytest.raises(ValueError, match="there is no adapter 'a1': loaded are 'a2'"):
        add(engine, ask("late", "a1"))
    with pytest.raises(ValueError, match="there is no adapter 'a1'"):
        engine.adapters.remove("a1")
    engine.adapters.load("a1", weights(5))  # the name is free
    engine.adapters.remove("a1")


def test_one_that_can_not_be_read_fails_its_request_alone() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1)

    def read() -> Adapter:
        raise OSError("the file is gone")

    engine.adapters.register("gone", AdapterSource(rank=1, created=0, read=read))
    engine.adapters.register("large", shelf.source(9, rank=64))
    with pytest.raises(OSError, match="the file is gone"):
        add(engine, ask("r", "gone"))
    with pytest.raises(ValueError, match="no slot could hold this adapter"):
        add(engine, ask("r", "large"))
    use(engine, "a1")
    engine.adapters.register("gone", shelf.source(2))  # registered anew
    add(engine, ask("r", "gone"))
    run_out(engine)


def test_names_are_not_taken_from_others() -> None:
    shelf = Shelf()
    engine = engine_with(shelf, 1)
    engine.adapters.load("a2", weights(2))
    with pytest.raises(ValueError, match="the name 'a2' is that of an adapter that was loaded"):
        engine.adapters.register("a2", shelf.source(2))
    for load_inplace in (False, True):
        with pytest.raises(ValueError, match="the name 'a1' is that of a registered adapter"):
            engine.adapters.load("a1", weights(3), load_inplace=load_inplace)
    with pytest.raises(ValueError, match="must be printable text"):
        engine.adapters.register("a\n", shelf.source(1))


def test_many_threads_read_one_once() -> None:
    num_reads = 0

    def read() -> Adapter:
        nonlocal num_reads
        num_reads += 1
        time.sleep(0.05)
        return weights(1)

    store = AdapterStore(None, lambda adapter: None)
    store.register("a", AdapterSource(rank=1, created=0, read=read))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(store.find("a"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert num_reads == 1
    assert len(set(map(id, found))) == 1


def test_one_that_is_removed_while_it_is_read_is_not_served() -> None:
    store = AdapterStore(None, lambda adapter: None)

    def read() -> Adapter:
        store.remove("a")
        return weights(1)

    store.register("a", AdapterSource(rank=1, created=0, read=read))
    with pytest.raises(ValueError, match="there is no adapter 'a'"):
        store.find("a")
    assert store.known() == ()
