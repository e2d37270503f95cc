"""Who gets a slot: the least recently used leaves, and whoever waits gets one in the end."""

from __future__ import annotations

import pytest

from flaxen.models.adapters import LoraConfig
from flaxen.protocol import AdapterWeights, SamplingParams
from flaxen.scheduling.adapters.slots import AdapterSlots
from flaxen.scheduling.adapters.store import AdapterStore, ServedAdapter
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from flaxen.weights.adapters.adapter import Adapter
from tests.scheduling.groups import full

A, B, C, D = (ServedAdapter(name=n, rank=1, weights=None, key=f"{n}#0") for n in "abcd")
WEIGHTS = Adapter(config=LoraConfig(rank=2), layers=())


def test_the_least_recently_used_adapter_leaves_its_slot() -> None:
    slots = AdapterSlots(2)
    assert (slots.pin(A), slots.pin(B)) == ((0, True), (1, True))
    slots.unpin(A)
    slots.unpin(B)
    assert slots.pin(A) == (0, False)  # still there
    slots.unpin(A)
    assert slots.pin(C) == (1, True)  # B was used before A
    assert (slots.holds(A), slots.holds(B), slots.holds(C)) == (True, False, True)


def test_a_pinned_adapter_keeps_its_slot() -> None:
    slots = AdapterSlots(1)
    slots.pin(A)
    slots.pin(A)
    slots.unpin(A)
    assert not slots.has_room()
    assert not slots.queue().may_run(B)
    slots.unpin(A)
    assert slots.queue().may_run(B)
    assert slots.pinned() == ()


def test_nobody_joins_an_adapter_whose_slot_is_wanted() -> None:
    slots = AdapterSlots(2)
    for adapter in (A, A, B):
        slots.pin(adapter)
    queue = slots.queue()
    assert queue.may_run(B)  # came before who wants its slot
    assert not queue.may_run(C)
    assert not queue.may_run(B)  # has the fewest
    assert queue.may_run(A)
    assert queue.may_run(None)
    assert not queue.may_run(D)  # wants a slot too: A's
    assert not queue.may_run(A)
    assert not queue.may_run(C)
    assert queue.may_run(None)


def test_a_given_stack_fills_the_slots_for_good() -> None:
    slots = AdapterSlots(1)
    slots.serve_stack([A, B])
    assert slots.num_slots == 2
    assert slots.pin(B) == (1, False)
    slots.unpin(B)
    slots.reset()
    assert slots.pin(A) == (0, False)
    slots.unpin(A)
    slots.serve_stack(None)
    assert (slots.num_slots, slots.holds(A)) == (1, False)


def test_who_wants_a_slot_gets_one_however_many_come_for_the_others() -> None:
    """Two slots, and in each step new requests for both adapters that run."""
    config = EngineConfig(
        max_model_len=16, groups=full(64), page_size=4, max_num_seqs=8, max_num_batched_tokens=64,
        lora=LoraLimits(max_loras=2),
    )  # fmt: skip
    scheduler = Scheduler(config)

    def add(adapter: ServedAdapter | None, max_tokens: int = 3) -> Sequence:
        sequence = Sequence(
            request_id="r", index=0, sampling=SamplingParams(max_tokens=max_tokens), tokens=[1, 2],
            num_prompt_tokens=2, adapter=adapter,
        )  # fmt: skip
        scheduler.add(sequence)
        return sequence

    def step() -> None:
        for item in scheduler.schedule().items:
            if item.samples:
                scheduler.append(item.sequence, 3)
            if len(item.sequence.tokens) == item.sequence.max_num_tokens:
                scheduler.end(item.sequence)

    for adapter in (A, B):
        add(adapter)
    step()
    late = [add(C), add(D)]
    base = add(None)
    num_steps = 0
    while not all(sequence.ended for sequence in late):
        add(A)
        add(B)
        step()
        num_steps += 1
        assert num_steps < 40, "it starves"
    assert base.ended


def store(max_adapters: int | None = None) -> AdapterStore:
    def check(weights: AdapterWeights) -> None:
        if weights.config.rank > 4:
            raise ValueError("too large")

    return AdapterStore(max_adapters, check)


def test_a_name_loaded_again_is_another_adapter() -> None:
    known = store()
    known.load("a", WEIGHTS)
    first = known.find("a")
    with pytest.raises(ValueError, match="'a' has already been loaded: unload it first"):
        known.load("a", WEIGHTS)
    known.load("a", WEIGHTS, load_inplace=True)
    second = known.find("a")
    known.unload("a")
    known.load("a", WEIGHTS)
    third = known.find("a")
    assert len({first.key, second.key, third.key}) == 3
    assert [each.name for each in known.known()] == ["a"]


def test_what_a_store_refuses() -> None:
    known = store(max_adapters=1)
    with pytest.raises(ValueError, match="name must be printable text, got 'a\\\\n'"):
        known.load("a\n", WEIGHTS)
    with pytest.raises(ValueError, match="too large"):
        known.load("a", Adapter(config=LoraConfig(rank=5), layers=()))
    with pytest.raises(ValueError, match="no adapter 'a': loaded are none"):
        known.find("a")
    known.load("a", WEIGHTS)
    with pytest.raises(ValueError, match="1 adapters are loaded, as many as max_cpu_loras allows"):
        known.load("b", WEIGHTS)
    known.load("a", WEIGHTS, load_inplace=True)  # takes no more room
    with pytest.raises(ValueError, match="no adapter 'b': loaded are 'a'"):
        known.unload("b")
    known.serve_stack(("x",), 1)
    for change in (lambda: known.load("b", WEIGHTS), lambda: known.unload("x")):
        with pytest.raises(ValueError, match="serves a trainer's stack of adapters"):
            change()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_loras": 0}, "max_loras must be at least 1, got 0"),
        ({"max_lora_rank": 0}, "max_lora_rank must be at least 1, got 0"),
        ({"max_loras": 4, "max_cpu_loras": 3}, r"max_cpu_loras must be at least max_loras \(4\)"),
    ],
)
def test_limits_out_of_range(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraLimits(**limits)
