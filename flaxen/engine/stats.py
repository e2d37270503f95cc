"""The engine's statistics. Safe to call from any thread. Deliberately changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace

from flaxen.protocol import AdapterInfo, CacheInfo, EngineStats, FinishReason
from flaxen.scheduling.adapters.slots import AdapterSlots
from flaxen.scheduling.adapters.store import AdapterStore, ServedAdapter
from flaxen.scheduling.cache.groups import most_pages
from flaxen.scheduling.checked import CheckedRequest
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.scheduler import Scheduler


def engine_stats(
    scheduler: Scheduler,
    num_ended: Mapping[FinishReason, int],
    *,
    num_generated: int,
    num_steps: int,
    expert_tokens: tuple[tuple[int, ...], ...],
) -> EngineStats:
    """The current counters and gauges.

    Args:
      scheduler: the engine's scheduler.
      num_ended: ended requests, by the most severe finish reason of their sequences.
      num_generated: generated tokens.
      num_steps: dispatched steps.
      expert_tokens: the tokens of each expert, for each layer that has experts.
    """
    pools, slots = scheduler.pools, scheduler.adapter_slots
    return EngineStats(
        **scheduler.counters.told(),
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        num_pages=pools.num_pages,
        num_used_pages=pools.num_used,
        kv_cache_usage=pools.usage,
        num_generated_tokens=num_generated,
        num_steps=num_steps,
        num_finished=num_ended[FinishReason.STOP] + num_ended[FinishReason.LENGTH],
        num_aborted=num_ended[FinishReason.ABORT] + num_ended[FinishReason.TIMEOUT],
        num_failed=num_ended[FinishReason.IMPOSSIBLE] + num_ended[FinishReason.ERROR],
        max_loras=slots.num_slots,
        running_adapters=_names(slots.pinned()),
        waiting_adapters=_names(each.adapter for each in scheduler.waiting()),
        expert_tokens=expert_tokens,
        num_deferred=_num_deferred(scheduler),
        cache=_cache_info(scheduler.config),
        weights_version=scheduler.pools.weights_version,
        num_stored_hits=pools.stored.num_hit_tokens,
        stored=None if pools.stored.store is None else pools.stored.store.stats(),
    )


def _num_deferred(scheduler: Scheduler) -> int:
    """Waiting sequences whose adapter needs a slot while none is free."""
    slots = scheduler.adapter_slots
    if not slots.num_slots or slots.has_room():
        return 0
    needed = (each.adapter for each in scheduler.waiting())
    return sum(adapter is not None and not slots.holds(adapter) for adapter in needed)


def _cache_info(config: EngineConfig) -> CacheInfo | None:
    if not config.groups:
        return None
    chunk, length = config.max_num_batched_tokens, config.max_model_len
    num_whole = min(
        group.num_pages / most_pages(group.spec, length, chunk, config.page_size)
        for group in config.groups
    )
    return CacheInfo(
        page_size=config.page_size,
        num_tokens=int(num_whole * length),
        num_whole=num_whole,
        has_prefixes=config.enable_prefix_caching,
    )


def _names(adapters: Iterable[ServedAdapter | None]) -> tuple[str, ...]:
    return tuple(sorted({adapter.name for adapter in adapters if adapter is not None}))


def adapter_infos(store: AdapterStore, slots: AdapterSlots) -> tuple[AdapterInfo, ...]:
    """The adapters that requests may name, and where their weights are."""
    return tuple(
        AdapterInfo(
            name=each.name,
            rank=each.rank,
            created=each.created,
            is_in_memory=each.in_memory is not None,
            is_on_device=each.in_memory is not None and slots.holds(each.in_memory),
        )
        for each in store.known()
    )


def with_waiting(stats: EngineStats, arrived: Sequence[CheckedRequest]) -> EngineStats:
    """Counts requests that the engine does not have yet as waiting."""
    names = {each.adapter.name for each in arrived if each.adapter is not None}
    return replace(
        stats,
        num_waiting=stats.num_waiting + sum(each.request.sampling.n for each in arrived),
        waiting_adapters=tuple(sorted({*stats.waiting_adapters, *names})),
    )


def sum_stats(replicas: Sequence[EngineStats]) -> EngineStats:
    """The statistics of several data replicas together; each has as much of the KV cache."""
    sums = {
        field.name: sum(getattr(each, field.name) for each in replicas)
        for field in fields(EngineStats)
        if field.name.startswith(("num_", "sum_"))
    }
    return EngineStats(
        **sums,
        kv_cache_usage=sum(each.kv_cache_usage for each in replicas) / len(replicas),
        max_loras=replicas[0].max_loras,
        running_adapters=_union(each.running_adapters for each in replicas),
        waiting_adapters=_union(each.waiting_adapters for each in replicas),
        expert_tokens=sum_by_expert([each.expert_tokens for each in replicas]),
        step_sizes=sum_by_size([each.step_sizes for each in replicas]),
        accepted_per_pos=sum_by_size([each.accepted_per_pos for each in replicas]),
        cache=replicas[0].cache,
        stored=replicas[0].stored,  # all share one store
        weights_version=replicas[0].weights_version,
        replicas=tuple(replicas),
    )


def sum_by_expert(loads: Sequence[tuple[tuple[int, ...], ...]]) -> tuple[tuple[int, ...], ...]:
    """The sums of several engines' tokens of each expert; all have the same layers, or none yet."""
    known = [each for each in loads if each]
    return tuple(
        tuple(sum(each) for each in zip(*layer, strict=True)) for layer in zip(*known, strict=True)
    )


def sum_by_size(counts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The sums of several engines' counts of each size or place; () counts none."""
    known = [each for each in counts if each]
    return tuple(sum(each) for each in zip(*known, strict=True))


def _union(names: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(sorted({name for each in names for name in each}))
