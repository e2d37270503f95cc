"""Pages that are stored in memory or on disk change nothing but what is computed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.protocol import Request
from flaxen.stored_pages.disk_tier import DiskTier
from flaxen.stored_pages.host_tier import HostTier
from flaxen.stored_pages.page_store import PageStore
from tests.engine import test_latent
from tests.engine.fakes import FaultyExecutor, fake_engine
from tests.engine.lora import LORA_SHAPE, adapted, make_adapter
from tests.engine.tiny import (
    MODEL,
    ONE_SHAPE,
    PARAMS,
    make_engine,
    make_executor,
    pack_params,
    pools,
    prompts,
    request,
    run,
    trace,
)

# Little more than one sequence: what others had is soon overwritten.
TINY = replace(ONE_SHAPE, groups=pools(12), max_num_seqs=4)
SHARED = prompts([50])[0]
BATCH = [request(f"r{i}", SHARED + p) for i, p in enumerate(prompts([30, 9, 44, 17, 38]))]


@pytest.fixture
def stores() -> Iterator[list[PageStore]]:
    found: list[PageStore] = []
    yield found
    for store in found:
        store.close()


def renamed(requests: list[Request], turn: int) -> list[Request]:
    return [replace(each, request_id=f"{each.request_id}-{turn}") for each in requests]


def turns(engine: Engine, num: int = 3) -> list[object]:
    """The same requests one by one, again and again."""
    found = []
    for turn in range(num):
        for each in renamed(BATCH, turn):
            found.append(trace(run(engine, [each])[0]))
            if (store := engine._stored.store) is not None:
                store.flush()
    return found


def test_under_pressure_pages_come_from_memory_with_the_same_bits(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    engine = make_engine(TINY, store=stores[0])
    assert turns(engine) == turns(make_engine(TINY))
    stats = engine.stats()
    assert stats.num_stored_hits > 100
    assert stats.stored is not None
    assert stats.stored.num_dropped == 0


def test_a_small_memory_evicts_and_changes_no_bit(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(100_000), None))
    engine = make_engine(TINY, store=stores[0])
    assert turns(engine) == turns(make_engine(TINY))
    stats = engine.stats().stored
    assert stats is not None
    assert 0 < stats.host_bytes <= 100_000


@pytest.mark.parametrize("cache", ["bfloat16", "int8", "float8_e4m3fn"])
def test_pages_come_back_after_a_restart_with_the_cpu_kernels(
    tmp_path: Path, stores: list[PageStore], cache: str
) -> None:
    if not cpu_library.is_built():
        pytest.skip("the library was not built")

    def start(*, is_stored: bool) -> Engine:
        executor = JaxExecutor(
            MODEL.on(Backend.CPU), pack_params(PARAMS, "bfloat16"), TINY, eos_ids=(),
            cache_dtype=jnp.dtype(cache), bad_word_ids=lambda words: (),
        )  # fmt: skip
        if is_stored:
            stores.append(PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**9)))
        return make_engine(TINY, executor=executor, store=stores[-1] if is_stored else None)

    expected = turns(start(is_stored=False), 1)
    assert turns(start(is_stored=True), 1) == expected
    stores[0].close()
    restarted = start(is_stored=True)
    assert turns(restarted, 1) == expected
    stats = restarted.stats()
    assert (
        stats.num_stored_hits
        == sum((len(each.prompt_token_ids) - 1) // 16 * 16 for each in BATCH)
        - stats.num_prefix_hits
    )
    assert stats.stored is not None
    assert stats.stored.num_disk_hits > 0


def test_latents_windows_and_chunks_come_from_memory_with_the_same_bits(
    stores: list[PageStore],
) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    model = test_latent.MODEL.on(Backend.REFERENCE)
    batch = [request(f"r{i}", each) for i, each in enumerate(test_latent.prompts())]
    few, roomy = (
        test_latent.engine(model, num, store) for num, store in ((12, stores[0]), (200, None))
    )
    for turn in range(3):
        for each in renamed(batch, turn):
            assert trace(run(few, [each])[0]) == trace(run(roomy, [each])[0])
            stores[0].flush()
    assert few.stats().num_stored_hits > 100


def test_a_damaged_store_is_computed_again(tmp_path: Path, stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**9)))
    expected = turns(make_engine(TINY, store=stores[0]), 1)
    stores[0].close()
    for path in tmp_path.glob("*/*.pages"):
        data = bytearray(path.read_bytes())
        for at in range(len(data) - 100, 3000, -1000):  # a bit of each page
            data[at] ^= 1
        path.write_bytes(data)
    stores.append(PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**9)))
    engine = make_engine(TINY, store=stores[1])
    assert trace(run(engine, renamed(BATCH[:1], 9))[0]) == expected[0]
    stats = engine.stats()
    assert stats.stored is not None
    assert (stats.num_stored_hits, stats.stored.num_disk_hits) == (0, 0)
    assert stats.stored.num_mismatches > 0
    assert turns(engine, 1) == expected  # now with what was computed and stored again


def test_adapters_find_their_own_pages_by_content(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    config = replace(LORA_SHAPE, groups=pools(12), max_num_seqs=4)
    number = itertools.count()

    def ask(engine: Engine, adapter: str) -> object:
        each = adapted(f"r{next(number)}", SHARED + prompts([9])[0], adapter)
        return trace(run(engine, [each])[0])

    first = make_engine(config, store=stores[0])
    first.adapters.load("one", make_adapter(1))
    first.adapters.load("two", make_adapter(2))
    one, two = ask(first, "one"), ask(first, "two")
    assert one != two
    stores[0].flush()
    second = make_engine(config, store=stores[0])  # as after a restart
    second.adapters.load("two", make_adapter(1))  # another name for the same
    second.adapters.load("one", make_adapter(2))
    assert (ask(second, "two"), ask(second, "one")) == (one, two)
    assert second.stats().num_stored_hits == 2 * 48


def test_salts_share_no_stored_page(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    first = make_engine(TINY, store=stores[0])
    run(first, [replace(BATCH[0], cache_salt="mine")])
    stores[0].flush()
    second = make_engine(TINY, store=stores[0])
    run(second, [replace(BATCH[0], cache_salt="other")])
    assert second.stats().num_stored_hits == 0
    run(second, [replace(BATCH[0], cache_salt="mine")])
    assert second.stats().num_stored_hits == 64


def test_other_weights_a_reset_and_sleep_forget_as_the_prefix_cache_does(
    stores: list[PageStore],
) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    engine = make_engine(TINY, store=stores[0])
    names = itertools.count()

    def ask() -> tuple[object, int]:
        before = engine.stats().num_stored_hits + engine.stats().num_prefix_hits
        found = trace(run(engine, [replace(BATCH[0], request_id=f"{next(names)}")])[0])
        stores[0].flush()
        stats = engine.stats()
        return found, stats.num_stored_hits + stats.num_prefix_hits - before

    first = ask()
    assert (first[1], ask()) == (0, (first[0], 64))
    engine.reset_prefix_cache()
    assert (ask(), ask()) == (first, (first[0], 64))
    engine.sleep(keeps_weights=True)
    engine.wake_weights()
    engine.wake_cache()
    stores[0].flush()
    assert (ask(), ask()) == (first, (first[0], 64))
    engine.set_params(PARAMS)
    assert (ask(), ask()) == (first, (first[0], 64))


def test_other_weights_store_on_disk_and_a_restart_finds_those_of_the_old_ones(
    tmp_path: Path, stores: list[PageStore]
) -> None:
    def start() -> Engine:
        stores.append(PageStore(HostTier(0), DiskTier(tmp_path, "a" * 64, 10**9)))
        return make_engine(TINY, store=stores[-1])

    other = jax.tree.map(lambda each: each * 1.1, PARAMS)
    plain = make_engine(TINY)
    expected = turns(plain, 2)
    plain.set_params(other)
    changed = turns(plain, 2)
    assert changed != expected
    engine = start()
    assert turns(engine, 2) == expected
    num_before = engine.stats().num_stored_hits
    assert num_before > 0
    engine.set_params(other)
    assert turns(engine, 2) == changed
    assert engine.stats().num_stored_hits > num_before
    stores[0].close()
    restarted = start()
    assert turns(restarted, 1) == expected[: len(BATCH)]
    assert restarted.stats().num_stored_hits > 0


def test_a_fault_is_stored_nowhere_or_dropped(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    engine = fake_engine(store=stores[0])
    poisoned = request("bad", [299, *range(30)], max_tokens=3)
    (bad,) = run(engine, [poisoned])
    assert bad.outputs[0].finish_reason == "error"
    stores[0].flush()
    run(engine, [request("good", list(range(40)), max_tokens=3)])
    stores[0].flush()
    stats = stores[0].stats()
    assert stats.host_bytes == 10 * 16  # of the good one alone: 10 pages of 4 token ids


def test_pages_that_are_still_to_be_read_do_not_make_an_engine_busy(
    stores: list[PageStore],
) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    engine = fake_engine(store=stores[0])
    engine.add(engine.check(request("r", list(range(40)), max_tokens=3)))
    while not any(event.finish for event in engine.step()):
        assert engine.has_work
    assert engine.has_work  # its last pages
    engine.set_adapter_stack((), None, None)
    assert not engine.has_work
    stores[0].flush()
    assert stores[0].stats().host_bytes == 10 * 16


def test_a_step_that_fails_stores_nothing_and_others_go_on(stores: list[PageStore]) -> None:
    stores.append(PageStore(HostTier(10**9), None))
    executor = FaultyExecutor(
        make_executor(TINY), lambda name, count: (name, count) == ("fetch", 2)
    )
    engine = make_engine(TINY, executor=executor, store=stores[0])
    run(engine, BATCH[:1])
    assert turns(engine) == turns(make_engine(TINY))
    assert engine.stats().num_stored_hits > 100
