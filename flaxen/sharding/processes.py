"""The processes that one mesh spans: starting JAX's, and what all of them must agree on.

Deliberately does not know: engines, training, sockets of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxen.sharding.shape import MeshShape

AUTO = "auto"
_JOIN_S = 120  # until all processes must have started
_HEARTBEAT_S = 20  # after so much silence a machine counts as gone


def _process_of(device: jax.Device) -> int:
    index: int = device.process_index
    return index


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The number of processes, and the index of this one."""

    count: int = 1
    index: int = 0
    of: Callable[[jax.Device], int] = _process_of  # the process that has a device


def start_processes(
    coordinator_address: str, num_processes: int | None, process_id: int | None
) -> None:
    """Joins this process with the others, before JAX computes anything.

    Args:
      coordinator_address: HOST:PORT where process 0 listens; auto leaves all to JAX, which knows
          TPU pods, SLURM, Open MPI and Kubernetes.
      num_processes: all of them; None with auto.
      process_id: which of them this is, from 0; None with auto.

    Raises:
      ValueError: the others can't be found.
    """
    address = None if coordinator_address == AUTO else coordinator_address
    try:
        jax.distributed.initialize(
            address,
            num_processes,
            process_id,
            initialization_timeout=_JOIN_S,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
            shutdown_timeout_seconds=_HEARTBEAT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the processes could not be joined at {coordinator_address}: {error}. Start each with "
            "the same --coordinator-address (where process 0 listens) and --num-processes, and its "
            f"own --process-id, within {_JOIN_S} seconds"
        ) from error


def this_process() -> Processes:
    """The processes that JAX was started with."""
    if not jax.distributed.is_initialized():
        return Processes()
    return Processes(count=jax.process_count(), index=jax.process_index())


def check_mesh(shape: MeshShape, processes: Processes) -> None:
    """Refuses a mesh that leaves a device of some process out.

    Raises:
      ValueError: it has more or fewer devices than there are.
    """
    num_found = jax.device_count()
    if processes.count > 1 and shape.num_devices != num_found:
        raise ValueError(
            f"the mesh {shape} has {shape.num_devices} devices, and the {processes.count} "
            f"processes have {num_found} in all: a mesh over several processes uses all of them, "
            f"for example tensor={num_found}"
        )


def from_process_0(values: np.ndarray) -> np.ndarray:
    """Returns the values of process 0 in all processes; all of them call this at the same time."""
    return np.asarray(multihost_utils.broadcast_one_to_all(values))


def least_of_all(numbers: Sequence[int]) -> list[int]:
    """The smallest value that any process gives, for each number; all processes call this at the
    same time.
    """
    gathered = multihost_utils.process_allgather(np.array(numbers, np.int32))
    found: list[int] = np.asarray(gathered).reshape(-1, len(numbers)).min(axis=0).tolist()
    return found


def check_alike(what: str, text: str) -> None:
    """Refuses processes that were not started alike; all call this at the same time.

    Args:
      what: that which must be equal, in words.
      text: all that belongs to it.

    Raises:
      ValueError: another process has another text.
    """
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int32)
    first = from_process_0(digest)
    is_equal = least_of_all([int((first == digest).all())])
    if not is_equal[0]:
        raise ValueError(
            f"the processes differ in {what}: start all of them with the same command, but for "
            "--process-id, and with the same files and versions"
        )
