"""The GPUs to compile for, as XLA wants them described.

A program that compiles here fits the registers and the shared memory that the description states.
Whether it is right and how fast it is, only a GPU shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh


@dataclass(frozen=True, kw_only=True)
class Target:
    """The figures of a GPU that XLA's compiler asks for, as its vendor publishes them."""

    name: str
    num_sms: int
    shared_bytes: int  # of a multiprocessor
    shared_bytes_per_block: int  # the most of one block
    registers: int  # of a multiprocessor
    memory_bytes: int
    memory_bandwidth: int  # bytes a second
    l2_bytes: int
    clock_ghz: float


def _hopper(name: str, memory_bytes: int, memory_bandwidth: int) -> Target:
    return Target(
        name=name,
        num_sms=132,
        shared_bytes=233_472,
        shared_bytes_per_block=232_448,
        registers=65_536,
        memory_bytes=memory_bytes,
        memory_bandwidth=memory_bandwidth,
        l2_bytes=50 * 2**20,
        clock_ghz=1.98,
    )


# https://docs.nvidia.com/cuda/hopper-tuning-guide/ and the data sheets of the cards.
TARGETS: Mapping[str, Target] = {
    "h100": _hopper("NVIDIA H100 80GB HBM3", 80 * 10**9, 3_350 * 10**9),
    "h200": _hopper("NVIDIA H200", 141 * 10**9, 4_800 * 10**9),
}


def devices(target: Target, num: int) -> list[jax.Device]:
    """Devices that are not here, to compile for.

    Args:
      target: the GPU.
      num: how many, in one machine.
    """
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=target.name,
        topology=f"1x{num}x1",
        target_config=_config(target),
    )
    return list(topology.devices)


AMD = "gfx942"  # the architecture of an MI300X, as ROCm names it


def lowering_for(device_kind: str) -> AbstractContextManager[None]:
    """Within it, Pallas lowers kernels for a GPU that is not here.

    Args:
      device_kind: a target's name, or AMD's architecture.
    """
    device = AbstractDevice(device_kind=device_kind, num_cores=None, platform="gpu")
    context: AbstractContextManager[None] = use_abstract_mesh(
        AbstractMesh((), (), abstract_device=device)
    )
    return context


def _config(target: Target) -> str:
    """XLA's GpuTargetConfigProto, in the text format."""
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: {min(49_152, target.shared_bytes_per_block)}
  shared_memory_per_block_optin: {target.shared_bytes_per_block}
  shared_memory_per_core: {target.shared_bytes}
  registers_per_core_limit: {target.registers}
  registers_per_block_limit: {target.registers}
  core_count: {target.num_sms}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {target.memory_bandwidth}
  l2_cache_size: {target.l2_bytes}
  clock_rate_ghz: {target.clock_ghz}
  device_memory_size: {target.memory_bytes}
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{target.name}"
"""
