"""A model's statistics over all times that it was loaded.

Deliberately does not know why a model was unloaded.
"""

from __future__ import annotations

from dataclasses import fields, replace

from flaxen.engine.stats import sum_by_expert, sum_by_size
from flaxen.protocol import EngineClient, EngineStats

# These numbers are of the moment; all others of EngineStats are sums since the start.
_GAUGES = ("num_running", "num_waiting", "num_pages", "num_used_pages", "num_deferred")
NOTHING = EngineStats(
    num_running=0,
    num_waiting=0,
    num_pages=0,
    num_used_pages=0,
    kv_cache_usage=0.0,
    sum_slots_allocated=0,
    sum_slots_held=0,
    num_preemptions=0,
    num_prefix_queries=0,
    num_prefix_hits=0,
    num_prompt_tokens=0,
    num_generated_tokens=0,
    num_steps=0,
    num_finished=0,
    num_aborted=0,
    num_failed=0,
)


class Counters:
    """Adds up the statistics of a model's engines, of which at most one runs."""

    def __init__(self) -> None:
        self._past = NOTHING
        self._engine: EngineClient | None = None

    def started(self, engine: EngineClient) -> None:
        """The model was loaded."""
        self._engine = engine

    def ended(self) -> None:
        """The model's engine has stopped: its last numbers are kept, and the engine is not."""
        stats = self.stats()
        sums = {name: getattr(stats, name) for name in _SUMS}
        experts, sizes = stats.expert_tokens, stats.step_sizes
        self._past = replace(NOTHING, **sums, expert_tokens=experts, step_sizes=sizes)
        self._engine = None

    def stats(self) -> EngineStats:
        """The sums since the server started, and the present values of the gauges."""
        now = NOTHING if self._engine is None else self._engine.stats()
        sums = {name: getattr(self._past, name) + getattr(now, name) for name in _SUMS}
        experts = sum_by_expert([self._past.expert_tokens, now.expert_tokens])
        sizes = sum_by_size([self._past.step_sizes, now.step_sizes])
        return replace(now, **sums, expert_tokens=experts, step_sizes=sizes)


def add_stats(one: EngineStats, other: EngineStats) -> EngineStats:
    """The numbers of two models together; the share of the cache has no sum and stays 0."""
    names = (*_SUMS, *_GAUGES)
    return replace(NOTHING, **{each: getattr(one, each) + getattr(other, each) for each in names})


_SUMS = tuple(
    each.name
    for each in fields(EngineStats)
    if each.name.startswith(("num_", "sum_")) and each.name not in _GAUGES
)
