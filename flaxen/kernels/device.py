"""The device that JAX computes on: telling JAX which one, and saying what is missing for it.

JAX can be told only before it computes anything, and for the whole process. Deliberately does not
know backends or ops.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from flaxen.kernels.hardware import Accelerator, find_accelerators

AUTO = "auto"
CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of accelerator, and what JAX needs for it."""

    name: str  # with its article, for messages
    jax_platforms: str  # JAX's option of that name: the first one computes
    packages: tuple[str, ...]  # each is a plugin of JAX for it; one is enough
    file: str  # that its driver makes
    container: str  # how a container gets it
    check: str  # what to look at if JAX can't start it


KINDS: Mapping[str, Kind] = {
    "cuda": Kind(
        name="an NVIDIA GPU",
        jax_platforms="cuda,cpu",
        packages=("jax-cuda12-plugin", "jax-cuda13-plugin"),
        file="/dev/nvidia0",
        container="docker run --gpus all",
        check="see whether nvidia-smi works here; CUDA 12 needs a driver of version 525 or newer, "
        "CUDA 13 one of 580",
    ),
    "rocm": Kind(
        name="an AMD GPU",
        jax_platforms="rocm,cpu",
        packages=("jax-rocm7-plugin",),
        file="/dev/kfd",
        container="docker run --device /dev/kfd --device /dev/dri",
        check="see whether rocminfo works here; the plugin needs ROCm 7 in /opt/rocm",
    ),
    "tpu": Kind(
        name="a TPU",
        jax_platforms="tpu,cpu",
        packages=("libtpu",),
        file="/dev/accel0",
        container="docker run --privileged",
        check="see that no other process uses it, and that this is a TPU's own virtual machine",
    ),
}
DEVICES = (AUTO, CPU, *KINDS)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the machine and the installation have."""

    accelerators: tuple[Accelerator, ...]
    plugins: Mapping[str, str]  # device -> its plugin's package and version

    def has_hardware(self, device: str) -> bool:
        """Whether the machine has an accelerator of this kind."""
        return any(each.device == device for each in self.accelerators)


def look_around() -> Surroundings:
    """Looks at the machine's files and the installed packages; starts nothing."""
    found = {name: _installed(kind.packages) for name, kind in KINDS.items()}
    plugins = {name: package for name, package in found.items() if package is not None}
    return Surroundings(accelerators=find_accelerators(), plugins=plugins)


def _installed(packages: tuple[str, ...]) -> str | None:
    for package in packages:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


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


def why_missing(
    name: str, surroundings: Surroundings, *, jax_error: str | None, running_on: str | None
) -> str:
    """Says why JAX does not compute on a device that was asked for, and what to do.

    Args:
      name: the device.
      surroundings: what the machine and the installation have.
      jax_error: what JAX said when it should have started the device; None if it was not started.
      running_on: the platform that JAX computes on already, in that case.
    """
    asked = f"the device {name} was asked for, but "
    elsewhere = (
        f"JAX computes on {running_on} in this process already: choose the device before anything "
        f"is computed, or start the process with JAX_PLATFORMS={name}"
    )
    if name == CPU:
        return asked + (elsewhere if running_on else f"JAX can't start it: {jax_error}")
    kind, has_hardware = KINDS[name], surroundings.has_hardware(name)
    if name not in surroundings.plugins:
        said = f"JAX has no plugin for it here: pip install 'flaxen[{name}]'"
        none = f". This machine does not show {kind.name} either: use device cpu here"
        return asked + said + ("" if has_hardware else none)
    plugin = f"JAX's plugin is here ({surroundings.plugins[name]})"
    if not has_hardware:
        return (
            f"{asked}this machine does not show {kind.name} ({plugin}, {kind.file} is not): "
            f"install its driver, pass it into the container ({kind.container}), or use device cpu"
        )
    if running_on:
        return asked + elsewhere
    return (
        f"{asked}JAX can't start it ({plugin}): {_first_line(jax_error)}. To mend it: {kind.check}"
    )


def overlooked(surroundings: Surroundings) -> str | None:
    """Says that the machine has an accelerator which JAX, computing on the CPU, leaves unused, and
    how to use it; None if there is none.
    """
    for name, kind in KINDS.items():
        if not surroundings.has_hardware(name):
            continue
        if name in surroundings.plugins:
            return (
                f"this machine has {kind.name}, but JAX could not start it: --device {name} says "
                "why"
            )
        return (
            f"this machine has {kind.name}, which JAX has no plugin for: pip install "
            f"'flaxen[{name}]' to compute there, or --device cpu to leave it unused"
        )
    return None


def _first_line(text: str | None) -> str:
    return ((text or "").strip().splitlines() or [""])[0]
