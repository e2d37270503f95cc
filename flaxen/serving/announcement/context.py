"""What the announcement says of the longest sequence and the KV cache, with the reasons for both.

Deliberately does not know how they were chosen: `memory/cache_plan`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flaxen.serving.fact import Fact
from flaxen.serving.sizes import show_size

if TYPE_CHECKING:
    from flaxen.memory.cache_plan import CachePlan
    from flaxen.memory.device_memory import DeviceMemory


def about_context(plan: CachePlan, max_num_seqs: int) -> Iterator[Fact]:
    """The longest sequence and the KV cache, with the reasons for both."""
    yield Fact(
        label="context",
        text=describe_context(plan),
        fields={"max_model_len": plan.max_model_len, "model_len": plan.model_len},
    )
    if not plan.groups:
        text = f"none: an encoder keeps nothing; {max_num_seqs} sequences at most run at once"
        yield Fact(label="KV cache", text=text, fields={"kv_cache_bytes": 0, "kv_cache_tokens": 0})
        return
    whole = int(plan.num_whole)
    sequences = f"{whole:,} sequence{'' if whole == 1 else 's'} of full length"
    holds = f"{plan.num_tokens:,} tokens, or {sequences}; {max_num_seqs} at most run at once"
    yield Fact(
        label="KV cache",
        text=f"{show_size(plan.num_bytes)}, {describe_pool(plan)}: {holds}",
        fields={"kv_cache_bytes": plan.num_bytes, "kv_cache_tokens": plan.num_tokens},
    )
    if not all(group.keeps_tokens for group in plan.groups):
        text = "not cached: some layers keep a state, that of a sequence's last token alone"
        yield Fact(label="prefixes", text=text, fields={"has_prefixes": False})


def describe_context(plan: CachePlan) -> str:
    """The longest sequence, and why it is that."""
    from flaxen.memory.cache_plan import PoolReason

    length = f"{plan.max_model_len:,} tokens"
    if plan.is_cut and plan.pool_reason is PoolReason.DEVICE_MEMORY:
        return (
            f"{length}: the model's is {plan.model_len:,}, for which {show_size(plan.whole_bytes)} "
            f"of the device's memory would be needed, and {show_size(plan.num_bytes)} are left "
            "(--gpu-memory-utilization, or a smaller or quantized model)"
        )
    if plan.is_cut and plan.pool_reason is PoolReason.BUDGET:
        return (
            f"{length}: the model's is {plan.model_len:,}, for which {show_size(plan.whole_bytes)} "
            f"would be needed, and {show_size(plan.num_bytes)} are its part of the memory for "
            "models (--models-memory)"
        )
    if plan.is_cut:
        needed = f"{math.ceil(plan.whole_bytes / 2**20)}MiB"
        return (
            f"{length}: the model's is {plan.model_len:,}, but the KV cache of "
            f"{show_size(plan.num_bytes)} holds {plan.max_model_len:,}: --kv-cache-size {needed} "
            "holds the whole"
        )
    if plan.max_model_len == plan.model_len:
        return f"{length}, the model's own"
    return f"{length}, as --max-model-len says; the model's own is {plan.model_len:,}"


def describe_pool(plan: CachePlan) -> str:
    """Why the KV cache has its size."""
    from flaxen.memory.cache_plan import TYPICAL_LEN, PoolReason

    typical = f"room for all sequences at {TYPICAL_LEN} tokens and for one at full length"
    return {
        PoolReason.ASKED: "as --kv-cache-size says",
        PoolReason.ALL_SEQUENCES: "what all sequences need",
        PoolReason.TYPICAL: typical,
        PoolReason.NOTHING_KEPT: "an encoder keeps nothing",
        PoolReason.FREE_MEMORY: "half of the memory that is free (--kv-cache-size)",
        PoolReason.DEVICE_MEMORY: _device_memory(plan.device),
        PoolReason.BUDGET: "its part of the memory for models (--models-memory)",
    }[plan.pool_reason]


def _device_memory(device: DeviceMemory | None) -> str:
    if device is None:
        return ""
    return (
        f"what {device.utilization:g} of the device's {show_size(device.limit_bytes)} leaves "
        f"beside {show_size(device.param_bytes)} of weights and {show_size(device.step_bytes)} "
        "for steps (--gpu-memory-utilization)"
    )
