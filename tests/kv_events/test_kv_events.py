"""KV events: what happens to pages, in vLLM's format, over ZeroMQ with numbers and replay."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import zmq

from flaxen.engine_args import EngineArgs
from flaxen.kv_events.config import KvEventsConfig, read_events_config
from flaxen.kv_events.publisher import Publisher
from flaxen.models.cache import Full, Sliding
from flaxen.protocol import SamplingParams
from flaxen.scheduling.adapters.store import ServedAdapter
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence
from tests.engine.fakes import SMALL, fake_engine, run_out
from tests.engine.fakes import add as ask
from tests.engine.tiny import request
from tests.scheduling.groups import full, groups

# The fields of vLLM 0.32's structs, and the types that its decoder takes for them.
FIELDS = {
    "BlockStored": {
        "block_hashes": list, "parent_block_hash": (int, type(None)), "token_ids": list,
        "block_size": int, "lora_id": (int, type(None)), "medium": (str, type(None)),
        "lora_name": (str, type(None)), "extra_keys": list, "group_idx": int,
        "kv_cache_spec_kind": str, "kv_cache_spec_sliding_window": int,
    },
    "BlockRemoved": {"block_hashes": list, "medium": (str, type(None)), "group_idx": int},
    "AllBlocksCleared": {},
}  # fmt: skip
REQUIRED = {
    "BlockStored": {
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name",
    },
    "BlockRemoved": {"block_hashes", "medium"},
    "AllBlocksCleared": set(),
}  # fmt: skip


def check(events: list[dict[str, Any]]) -> None:
    """Each has the fields that vLLM's decoder asks for, of its types."""
    for event in events:
        kind = event["type"]
        given = {name: value for name, value in event.items() if name != "type"}
        assert set(given) >= REQUIRED[kind]
        for name, value in given.items():
            assert isinstance(value, FIELDS[kind][name])
        if kind == "BlockStored":
            assert all(0 <= each < 2**64 for each in event["block_hashes"])
            assert len(event["token_ids"]) == len(event["block_hashes"]) * event["block_size"]
            assert len(event.get("extra_keys", event["block_hashes"])) == len(event["block_hashes"])


class Pool:
    """A scheduler, and what a router knows of it from the events alone."""

    def __init__(self, config: EngineConfig) -> None:
        self.events: list[dict[str, Any]] = []
        self.scheduler = Scheduler(config, publish=self.events.extend)

    def ask(
        self, tokens: list[int], salt: str = "", adapter: ServedAdapter | None = None
    ) -> list[dict[str, Any]]:
        """The events of a request of one token."""
        self.events.clear()
        sequence = Sequence(
            request_id="r", index=0, sampling=SamplingParams(max_tokens=1), tokens=tokens,
            num_prompt_tokens=len(tokens), cache_salt=salt, adapter=adapter,
        )  # fmt: skip
        self.scheduler.add(sequence)
        while not sequence.num_in_flight:
            self.scheduler.schedule()
        self.scheduler.append(sequence, 0)
        self.scheduler.end(sequence)
        assert self.scheduler.pools.events is not None
        self.scheduler.pools.events.flush()
        check(self.events)
        return list(self.events)


def test_pages_are_stored_after_their_parents_and_removed_when_they_are_needed() -> None:
    pool = Pool(replace(SMALL, groups=full(17), max_num_seqs=1))
    (first,) = pool.ask(list(range(9)))
    assert (first["type"], first["parent_block_hash"]) == ("BlockStored", None)
    assert (first["token_ids"], first["block_size"]) == (list(range(8)), 4)
    assert (first["medium"], first["group_idx"]) == ("GPU", 0)
    assert first["kv_cache_spec_kind"] == "full_attention"
    assert "extra_keys" not in first
    (more,) = pool.ask(list(range(13)))
    assert more["parent_block_hash"] == first["block_hashes"][1]
    assert more["token_ids"] == [8, 9, 10, 11]
    found = pool.ask(list(range(100, 161)))
    removed = [
        each for event in found if event["type"] == "BlockRemoved" for each in event["block_hashes"]
    ]
    assert removed == [more["block_hashes"][0], first["block_hashes"][1]]  # 16 of 17 pages
    pool.scheduler.drop_prefix_cache()
    assert pool.events[-1] == {"type": "AllBlocksCleared"}


def test_salts_and_adapters_are_told_as_vllm_does() -> None:
    pool = Pool(replace(SMALL, lora=LoraLimits(max_loras=1)))
    adapter = ServedAdapter(name="mine", rank=1, weights=None, key="k")
    (event,) = pool.ask(list(range(9)), salt="s", adapter=adapter)
    assert event["lora_name"] == "mine"
    assert event["extra_keys"] == [("mine", "s"), ("mine",)]
    (event,) = pool.ask(list(range(9)), salt="s")
    assert event["extra_keys"] == [("s",), None]


def test_each_group_tells_its_own_pages() -> None:
    specs = [Full(num_kv_heads=1, head_dim=2), Sliding(num_kv_heads=1, head_dim=2, window=6)]
    pool = Pool(replace(SMALL, groups=groups(specs, 40)))
    events = pool.ask(list(range(9)))
    kinds = [(each["group_idx"], each["kv_cache_spec_kind"]) for each in events]
    assert kinds == [(0, "full_attention"), (1, "sliding_window")]
    assert events[1]["kv_cache_spec_sliding_window"] == 6


@pytest.fixture
def endpoints() -> tuple[str, str]:
    with (
        zmq.Context() as context,
        context.socket(zmq.REP) as first,
        context.socket(zmq.REP) as other,
    ):
        ports = [each.bind_to_random_port("tcp://127.0.0.1") for each in (first, other)]
    return f"tcp://*:{ports[0]}", f"tcp://*:{ports[1]}"


def test_batches_are_numbered_and_can_be_asked_for_again(endpoints: tuple[str, str]) -> None:
    out, replay = endpoints
    config = KvEventsConfig(
        enable_kv_cache_events=True,
        endpoint=out,
        replay_endpoint=replay,
        buffer_steps=2,
        topic="kv",
    )
    publisher = Publisher(config, 0)
    context = zmq.Context()
    subscriber, asker = context.socket(zmq.SUB), context.socket(zmq.DEALER)
    subscriber.connect(out.replace("*", "127.0.0.1"))
    subscriber.setsockopt(zmq.SUBSCRIBE, b"kv")
    asker.connect(replay.replace("*", "127.0.0.1"))
    while not subscriber.poll(50):  # until it has joined
        publisher.publish([{"type": "AllBlocksCleared"}])
    topic, start, payload = subscriber.recv_multipart()
    seconds, events, rank = msgpack.unpackb(payload)
    assert (topic, events, rank) == (b"kv", [{"type": "AllBlocksCleared"}], 0)
    assert seconds > 1.7e9
    engine = fake_engine(replace(SMALL, groups=full(24)), publish=publisher.publish)
    ask(engine, request("r", list(range(30)), max_tokens=3))
    run_out(engine)
    last = int.from_bytes(start, "big")
    seen: list[dict[str, Any]] = []
    while sum(len(each.get("block_hashes", ())) for each in seen) < 8:
        assert subscriber.poll(10_000)
        _, number, payload = subscriber.recv_multipart()
        last += 1
        assert int.from_bytes(number, "big") == last
        seen += msgpack.unpackb(payload)[1]
    check(seen)
    asker.send_multipart((b"", (0).to_bytes(8, "big")))
    numbers: list[int] = []
    while -1 not in numbers:
        assert asker.poll(10_000)
        _, topic, number, payload = asker.recv_multipart()
        numbers.append(int.from_bytes(number, "big", signed=True))
        assert (topic, bool(payload)) == ((b"", False) if numbers[-1] == -1 else (b"kv", True))
    assert numbers == [last - 1, last, -1]
    publisher.close()
    publisher.close()
    context.destroy(linger=0)


def test_a_bad_config_is_refused_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="kv_events_config must be an object of enable_kv_cache"):
        EngineArgs(model="m", kv_events_config='{"port": 1}')
    with pytest.raises(ValueError, match="kv_events_config must be a JSON object, got 'x'"):
        read_events_config("x")
    with pytest.raises(ValueError, match="publisher must be 'zmq' or 'null', got 'kafka'"):
        read_events_config({"publisher": "kafka"})
    with pytest.raises(ValueError, match="hwm must be a whole number above 0, got -1"):
        read_events_config({"hwm": -1})
    with pytest.raises(ValueError, match="endpoint, replay_endpoint and topic must be texts, got"):
        read_events_config({"endpoint": 5})
    with pytest.raises(ValueError, match="enable_kv_cache_events must be true or false, got 'yes'"):
        read_events_config({"enable_kv_cache_events": "yes"})
    with pytest.raises(
        ValueError, match=r"kv_events_config: tcp://1.2.3.4.5:x or None can't be used"
    ):
        Publisher(KvEventsConfig(enable_kv_cache_events=True, endpoint="tcp://1.2.3.4.5:x"))
    assert not read_events_config({}).is_on
    assert not read_events_config({"enable_kv_cache_events": True, "publisher": "null"}).is_on
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs pyzmq and msgpack: pip install 'flaxen\[kv-events\]'"
    ):
        read_events_config({"enable_kv_cache_events": True})


def test_replicas_have_ports_of_their_own(endpoints: tuple[str, str]) -> None:
    config = KvEventsConfig(enable_kv_cache_events=True, endpoint="ipc:///tmp/flaxen-test-events")
    with pytest.raises(ValueError, match="data replicas need an endpoint of tcp, with a port"):
        Publisher(config, 1)
    port = int(endpoints[0].rpartition(":")[2])
    publisher = Publisher(replace(config, endpoint=f"tcp://*:{port - 1}"), 1)
    with zmq.Context() as context, context.socket(zmq.PUB) as other, pytest.raises(zmq.ZMQError):
        other.bind(f"tcp://*:{port}")
    publisher.close()
