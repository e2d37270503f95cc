"""The device that JAX computes on: telling JAX which one, and asking it what that is.

JAX can be told only before it computes anything, and for the whole process. Deliberately does not
know backends or ops.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

from flaxen.kernels.accelerators import KINDS, look_around, why_missing

AUTO = "auto"
CPU = "cpu"
DEVICES = (AUTO, CPU, *KINDS)


def use_device(name: str) -> None:
    """Makes JAX compute on a device, in the whole process.

    Args:
      name: one of DEVICES; auto leaves the choice to JAX.

    Raises:
      ValueError: the device is unknown or not there, or JAX computes on another one already.
    """
    check_device(name)
    if name == AUTO:
        return
    before: str | None = jax.config.jax_platforms  # type: ignore[attr-defined]
    jax.config.update("jax_platforms", name if name == CPU else KINDS[name].jax_platforms)
    try:
        default = jax.devices()[0]  # starts JAX, if it has not started
        if default in _devices(name):
            return
        jax_error = None
    except RuntimeError as error:
        jax_error = str(error)
    jax.config.update("jax_platforms", before)
    running_on = None if jax_error else default.platform
    raise ValueError(why_missing(name, look_around(), jax_error=jax_error, running_on=running_on))


def _devices(name: str) -> list[jax.Device]:
    """JAX's devices of this kind; none if JAX does not have the kind."""
    try:
        return jax.devices(name)
    except RuntimeError:
        return []


def gpu_memory_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables with which XLA takes a GPU's memory as it is needed, and as far as it goes; its
    own way is to take three quarters at the start.

    Args:
      environment: the process's variables; what they set stays.
    """
    found = {}
    # The second is an older name of the first, and XLA refuses both at once.
    if not {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & set(environment):
        found["XLA_CLIENT_MEM_FRACTION"] = "1.0"
    if "XLA_PYTHON_CLIENT_PREALLOCATE" not in environment:
        found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return found


def memory_limit() -> int | None:
    """The bytes that JAX may take on its default device; None if it does not say, as on a CPU."""
    limit: int | None = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit


def free_memory() -> int | None:
    """The bytes that are free on JAX's default device; None if it does not say, as on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    limit, used = stats.get("bytes_limit"), stats.get("bytes_in_use")
    return None if limit is None or used is None else max(0, limit - used)


def is_accelerator() -> bool:
    """Whether JAX computes on something else than a CPU."""
    return jax.default_backend() != "cpu"


def describe_devices() -> str:
    """JAX's devices in words: "2 x NVIDIA H100 80GB HBM3 (gpu), 79.2 GiB each"."""
    devices = jax.devices()
    times, each = (f"{len(devices)} x ", " each") if len(devices) > 1 else ("", "")
    limit = memory_limit()
    memory = "" if limit is None else f", {limit / 2**30:.1f} GiB{each}"
    return f"{times}{devices[0].device_kind} ({devices[0].platform}){memory}"


def check_device(name: str) -> None:
    """Raises ValueError if there is no device of this name."""
    if name not in DEVICES:
        raise ValueError(f"the device {name!r} is not known: use one of {', '.join(DEVICES)}")
