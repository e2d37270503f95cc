"""What a model's counters keep when its engine is unloaded, and add when another is loaded."""

from __future__ import annotations

from dataclasses import replace

from flaxen.model_pool.counters import Counters
from flaxen.protocol import EngineStats
from tests.server.fakes import FakeEngine


class _WithExperts(FakeEngine):
    def stats(self) -> EngineStats:
        return replace(FakeEngine.stats(self), expert_tokens=((3, 0, 1), (2, 2, 0)))


def test_the_tokens_of_experts_go_on_after_an_unload() -> None:
    counters = Counters()
    assert counters.stats().expert_tokens == ()
    for times in (1, 2):
        counters.started(_WithExperts())
        counters.ended()
        assert counters.stats().expert_tokens == (
            (3 * times, 0, times),
            (2 * times, 2 * times, 0),
        )
    counters.started(_WithExperts())
    assert counters.stats().expert_tokens == ((9, 0, 3), (6, 6, 0))
