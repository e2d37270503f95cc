"""Decides the memory of the KV cache and the longest sequence, and keeps the reasons for both
(decision 0251).

Deliberately does not know: JAX, options, how free memory is measured, how a reason is worded.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from flaxen.memory.device_memory import DeviceMemory
from flaxen.models.cache import State
from flaxen.scheduling.cache.groups import CacheGroup, most_pages
from flaxen.scheduling.cache.sizes import CacheSizes

TYPICAL_LEN = 512  # tokens: what all sequences have room for at once, if no size is given
FREE_SHARE = Fraction(1, 2)  # of the free memory: the most that is taken if no size is given


class PoolReason(enum.Enum):
    """Why the KV cache has its size."""

    ASKED = enum.auto()  # the size was given
    ALL_SEQUENCES = enum.auto()  # all sequences that may run at once fit at full length
    TYPICAL = enum.auto()  # all sequences fit at TYPICAL_LEN, and one at full length
    FREE_MEMORY = enum.auto()  # FREE_SHARE of the free memory is less than any of these
    NOTHING_KEPT = enum.auto()  # an encoder keeps no keys and values
    DEVICE_MEMORY = enum.auto()  # what an accelerator has left; it also keeps cached prefixes
    BUDGET = enum.auto()  # what the budget of this model leaves beside its weights


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """The KV cache and the longest sequence of an engine, with the facts that decided them."""

    groups: tuple[CacheGroup, ...]
    num_bytes: int  # of the KV cache
    pool_reason: PoolReason
    max_model_len: int  # tokens, prompt and output together
    model_len: int  # tokens that the model was made for
    asked_len: int | None  # the length that was asked for; None: as long as possible
    # Bytes in which one sequence of the wanted length fits.
    whole_bytes: int
    num_whole: float  # sequences of max_model_len that fit at once
    device: DeviceMemory | None = None  # None: the pages are in the host's memory

    @property
    def is_cut(self) -> bool:
        """Whether the memory made the longest sequence shorter than the model's own length."""
        return self.asked_len is None and self.max_model_len < self.model_len

    @property
    def num_tokens(self) -> int:
        """The tokens that fit, in sequences of full length."""
        return int(self.num_whole * self.max_model_len)


def plan_cache(
    sizes: CacheSizes,
    model_len: int,
    *,
    asked_len: int | None,
    asked_bytes: int | None,
    free_bytes: int | None = None,
    device: DeviceMemory | None = None,
    budget_bytes: int | None = None,
) -> CachePlan:
    """Plans the KV cache.

    Args:
      sizes: the model's cache specs and the engine's sizes.
      model_len: the tokens that the model was made for.
      asked_len: the longest sequence; None is the model's own length, as far as the memory allows.
      asked_bytes: the memory; None chooses it.
      free_bytes: the host's memory that is free beside the weights; None if that is not known.
      device: the accelerator's memory; None where the pages are in the host's.
      budget_bytes: the memory that was set apart for this cache, wherever its pages are; None where
          it takes of all memory.

    Raises:
      ValueError: the length is above the model's, or the memory is too small for one sequence or
          for the size that was asked for.
    """
    wanted_len = model_len if asked_len is None else asked_len
    if wanted_len > model_len:
        raise ValueError(
            f"max_model_len is {wanted_len}, and the model was made for {model_len} tokens: lower "
            "it"
        )
    if not sizes.specs:
        return _no_cache(wanted_len, model_len, asked_len, asked_bytes)
    num_bytes, reason = _memory(sizes, wanted_len, asked_bytes, free_bytes, device, budget_bytes)
    longest = sizes.longest(num_bytes, model_len)
    if longest < (asked_len or 1) and reason in _TOO_SMALL:
        facts, advice = _TOO_SMALL[reason](num_bytes, free_bytes, device)
        raise ValueError(f"{facts}, and {_needs(sizes, asked_len or 1, longest)}. {advice}")
    if longest == 0:
        raise ValueError(
            f"the KV cache of {num_bytes} bytes is smaller than one page of "
            f"{sizes.least_bytes(1)}: give it more memory"
        )
    max_model_len = min(wanted_len, longest) if asked_len is None else wanted_len
    groups = sizes.divide(num_bytes, max_model_len)
    return CachePlan(
        groups=groups,
        num_bytes=num_bytes,
        pool_reason=reason,
        max_model_len=max_model_len,
        model_len=model_len,
        asked_len=asked_len,
        whole_bytes=sizes.least_bytes(wanted_len),
        num_whole=min(_num_whole(group, sizes, max_model_len) for group in groups),
        device=device,
    )


def _no_cache(
    wanted_len: int, model_len: int, asked_len: int | None, asked_bytes: int | None
) -> CachePlan:
    """The plan of a model that keeps nothing of past tokens."""
    if asked_bytes is not None:
        raise ValueError(
            f"kv_cache_bytes (--kv-cache-size) is {asked_bytes}, and the model is an encoder, "
            "which has no KV cache: leave it out"
        )
    return CachePlan(
        groups=(),
        num_bytes=0,
        pool_reason=PoolReason.NOTHING_KEPT,
        max_model_len=wanted_len,
        model_len=model_len,
        asked_len=asked_len,
        whole_bytes=0,
        num_whole=0,
    )


def _memory(
    sizes: CacheSizes,
    wanted_len: int,
    asked_bytes: int | None,
    free_bytes: int | None,
    device: DeviceMemory | None,
    budget_bytes: int | None,
) -> tuple[int, PoolReason]:
    if asked_bytes is not None:
        if budget_bytes is not None and asked_bytes > budget_bytes:
            raise ValueError(
                f"a KV cache of {_mib(asked_bytes)} was asked for, and the memory for models "
                f"leaves {_mib(budget_bytes)} for it beside the weights and stored pages: lower "
                "kv_cache_bytes (--kv-cache-size) or kv_offload_bytes (--kv-offload-bytes), or "
                "raise --models-memory"
            )
        return asked_bytes, PoolReason.ASKED
    if device is not None and budget_bytes is None:
        return device.pool_bytes, PoolReason.DEVICE_MEMORY
    typical = sizes.most_bytes(min(wanted_len, TYPICAL_LEN))
    found = [
        (sizes.most_bytes(wanted_len), PoolReason.ALL_SEQUENCES),
        (max(typical, sizes.least_bytes(wanted_len)), PoolReason.TYPICAL),
    ]
    if budget_bytes is not None:
        found.append((max(0, budget_bytes), PoolReason.BUDGET))
    elif free_bytes is not None:
        found.append((max(0, int(free_bytes * FREE_SHARE)), PoolReason.FREE_MEMORY))
    return min(found, key=lambda each: each[0])


def _needs(sizes: CacheSizes, num_tokens: int, longest: int) -> str:
    """A part of an error: what the sequence needs, and the longest that fits."""
    text = f"one sequence of {num_tokens} tokens needs {_mib(sizes.least_bytes(num_tokens))}"
    if longest:
        return f"{text}: the longest that fits has {longest} tokens (max_model_len)"
    if any(isinstance(spec, State) for spec in sizes.specs):
        return f"{text} with the states of {sizes.max_num_seqs} sequences (max_num_seqs)"
    return text


def _free_too_small(
    num_bytes: int, free_bytes: int | None, device: DeviceMemory | None
) -> tuple[str, str]:
    return (
        f"the machine has {_mib(free_bytes)} of memory free beside the weights and stored "
        "pages (kv_offload_bytes), of which the KV cache takes half",
        "End other programs, take a smaller or quantized model or a shorter max_model_len, or say "
        "with kv_cache_bytes (--kv-cache-size) how much to take",
    )


def _device_too_small(
    num_bytes: int, free_bytes: int | None, device: DeviceMemory | None
) -> tuple[str, str]:
    assert device is not None, "the reason is its memory"
    return (
        f"the engine may take {device.utilization:g} of the device's {_mib(device.limit_bytes)}: "
        f"beside weights of {_mib(device.param_bytes)} and {_mib(device.step_bytes)} for steps "
        f"that leaves {_mib(num_bytes)} for the KV cache",
        "Take a smaller or quantized model, lower max_model_len, max_num_seqs or "
        "max_num_batched_tokens, or raise gpu_memory_utilization",
    )


def _budget_too_small(
    num_bytes: int, free_bytes: int | None, device: DeviceMemory | None
) -> tuple[str, str]:
    return (
        f"the memory for models leaves {_mib(num_bytes)} for the KV cache of this one",
        "Raise --models-memory, take smaller or quantized models, or lower max_model_len or "
        "kv_offload_bytes",
    )


_Why = Callable[[int, int | None, DeviceMemory | None], tuple[str, str]]
# Why the memory is too small and what to do, from its bytes, the free ones, and the device's.
_TOO_SMALL: dict[PoolReason, _Why] = {
    PoolReason.FREE_MEMORY: _free_too_small,
    PoolReason.DEVICE_MEMORY: _device_too_small,
    PoolReason.BUDGET: _budget_too_small,
}


def _mib(num_bytes: int | None) -> str:
    return f"{max(0, num_bytes or 0) / 2**20:,.1f} MiB"


def _num_whole(group: CacheGroup, sizes: CacheSizes, max_model_len: int) -> float:
    """The sequences of full length that a group's pages hold."""
    pages = most_pages(group.spec, max_model_len, sizes.chunk, sizes.page_size)
    return group.num_pages / pages
