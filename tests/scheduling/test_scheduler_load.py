"""Many requests, one after the other, on a device by hand."""

from __future__ import annotations

import random

from flaxen.models.cache import Sliding
from flaxen.protocol import SamplingParams
from flaxen.scheduling.config import EngineConfig, LoraLimits
from tests.scheduling.device import FakeEngine
from tests.scheduling.groups import FULL, groups
from tests.scheduling.test_scheduler_machine import ADAPTERS


def test_ten_thousand_requests_end_once_and_leave_no_page() -> None:
    rng = random.Random(0)
    specs = [FULL, Sliding(num_kv_heads=1, head_dim=2, window=12)]
    config = EngineConfig(
        max_model_len=64, groups=groups(specs, 70), page_size=4, max_num_seqs=32,
        max_num_batched_tokens=256,
        lora=LoraLimits(max_loras=2),
    )  # fmt: skip
    engine = FakeEngine(config)
    prefixes = [[rng.randrange(3) for _ in range(rng.randint(1, 24))] for _ in range(8)]
    num_added = 0
    while num_added < 10_000 or engine.alive or engine.outstanding:
        while num_added < 10_000 and len(engine.alive) < 64:
            prompt = rng.choice(prefixes) + [rng.randrange(3) for _ in range(rng.randint(0, 6))]
            sampling = SamplingParams(max_tokens=rng.randint(1, 24), ignore_eos=num_added % 2 == 0)
            adapter = rng.choice([None, *ADAPTERS])
            engine.add(prompt, sampling, salt=rng.choice("ab"), adapter=adapter)
            num_added += 1
        if rng.random() < 0.02 and engine.alive:
            engine.end(rng.choice(engine.alive))
        if not engine.step().items or len(engine.outstanding) > 1:
            engine.deliver()
    assert list(engine.ends.values()) == [1] * 10_000
    assert engine.scheduler.counters.num_preemptions > 0
    assert engine.scheduler.counters.num_adapter_loads > 10
    assert engine.scheduler.counters.num_prefix_hits > 0
    assert not engine.scheduler.has_work
    assert engine.scheduler.pools.num_used == 0
    engine.scheduler.pools.check_invariants()
