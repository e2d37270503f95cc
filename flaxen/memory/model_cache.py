"""Plans the KV cache of a model, in the memory of the device that computes.

Deliberately does not know: options' names on a command line, how a plan is worded.
"""

from __future__ import annotations

import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention import check_page_size
from flaxen.execution.step_sizes import StepSizes
from flaxen.kernels.device import memory_limit
from flaxen.memory.cache_plan import CachePlan, plan_cache
from flaxen.memory.device_memory import DEFAULT_UTILIZATION, DeviceMemory
from flaxen.memory.free_memory import free_bytes
from flaxen.memory.step_memory import step_bytes
from flaxen.models.layout import page_specs
from flaxen.models.model import Model
from flaxen.scheduling.cache.sizes import CacheSizes


def plan_model_cache(
    model: Model,
    sizes: StepSizes,
    *,
    page_size: int,
    itemsize: int,
    cache_dtype: jnp.dtype,
    num_param_bytes: int,
    max_model_len: int | None,
    kv_cache_bytes: int | None,
    gpu_memory_utilization: float | None,
    num_replicas: int,
    memory_bytes: int | None = None,
    kv_offload_bytes: int = 0,
) -> CachePlan:
    """Plans the KV cache, as one device of the model's mesh has it.

    Args:
      model: the model, made for its backend and mesh.
      sizes: of the engine's steps.
      page_size: tokens.
      itemsize: bytes of one number in the dtype of compute.
      cache_dtype: of keys and values in the pages.
      num_param_bytes: of the weights on one device.
      max_model_len: the longest sequence, in tokens; None is as long as possible.
      kv_cache_bytes: the size of the cache; None chooses it.
      gpu_memory_utilization: as in EngineArgs.
      num_replicas: engines of the same size that this process has.
      memory_bytes: the memory that was set apart for the weights, the cache and, where both are in
        the host's memory, stored pages; None is all.
      kv_offload_bytes: the host's memory that stored pages may fill.

    Raises:
      ValueError: as in `plan_cache`, `beside_stored` and `check_utilization_has_device`; or the
        backend can't have pages of this size.
    """
    check_page_size(page_size, backend=model.backend)
    limit, free = memory_limit(), free_bytes()
    check_utilization_has_device(gpu_memory_utilization, has_device=limit is not None)
    device = None
    if limit is not None:
        length = max_model_len or model.max_position
        device = DeviceMemory(
            limit_bytes=limit,
            utilization=gpu_memory_utilization or DEFAULT_UTILIZATION,
            param_bytes=num_param_bytes,
            step_bytes=step_bytes(model, sizes, itemsize=itemsize, max_model_len=length),
        )
    num_on_host, budget = num_replicas * _num_devices(model), None
    if memory_bytes is not None:
        budget = memory_bytes - num_param_bytes - (0 if device else kv_offload_bytes)
    elif device is not None:
        beside_stored(free, kv_offload_bytes, 0)
    else:
        asked = num_on_host * (kv_cache_bytes or 0)
        free = beside_stored(free, kv_offload_bytes, num_on_host * num_param_bytes, asked)
    return plan_cache(
        CacheSizes(
            specs=page_specs(model, page_size, cache_dtype),
            page_size=page_size,
            itemsize=cache_dtype.itemsize,
            chunk=sizes.max_num_batched_tokens,
            max_num_seqs=sizes.max_num_seqs,
        ),
        model.max_position,
        asked_len=max_model_len,
        asked_bytes=kv_cache_bytes,
        free_bytes=share_of_host(free, num_param_bytes, num_on_host),
        device=device,
        budget_bytes=budget,
    )


def _num_devices(model: Model) -> int:
    """The number of this process's devices that hold weights and pages of one engine."""
    return 1 if model.placement is None else len(model.placement.mesh.local_devices)


def beside_stored(
    free: int | None, stored_bytes: int, param_bytes: int, asked_bytes: int = 0
) -> int | None:
    """The bytes of the host's free memory that stored pages will not fill.

    Args:
      free: the host's free memory before the weights are loaded; None if that is not known.
      stored_bytes: the most bytes of stored pages in it.
      param_bytes: of all weights in it.
      asked_bytes: of KV caches in it whose size was given.

    Raises:
      ValueError: stored pages have no room there.
    """
    if free is None or not stored_bytes:
        return free
    if stored_bytes > (left := free - param_bytes - asked_bytes):
        cache = f" and a KV cache of {asked_bytes / 2**20:,.1f} MiB (--kv-cache-size)"
        raise ValueError(
            f"kv_offload_bytes (--kv-offload-bytes) is {stored_bytes / 2**20:,.1f} MiB, and the "
            f"machine has {max(0, left) / 2**20:,.1f} MiB of memory free beside the weights"
            f"{cache if asked_bytes else ''}: lower it, or end other programs"
        )
    return free - stored_bytes


def share_of_host(free: int | None, num_param_bytes: int, num_devices: int) -> int | None:
    """The bytes of the host's free memory that are left for one device's pages.

    The virtual devices of a CPU share the host's memory: each has weights and pages there.

    Args:
      free: the host's free memory before the weights are loaded; None if that is not known.
      num_param_bytes: of the weights on one device.
      num_devices: the devices that share the memory.
    """
    return None if free is None else free // num_devices - num_param_bytes


def check_utilization_has_device(utilization: float | None, *, has_device: bool) -> None:
    """Refuses a share of an accelerator's memory where there is none.

    Raises:
      ValueError: a utilization was given, and the pages are in the host's memory.
    """
    if utilization is not None and not has_device:
        raise ValueError(
            f"gpu_memory_utilization ({utilization:g}) is a share of a GPU's or TPU's memory, and "
            "this engine computes on the CPU: say with kv_cache_bytes (--kv-cache-size) how much "
            "memory the KV cache takes"
        )
