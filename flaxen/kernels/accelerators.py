"""The kinds of accelerators: what JAX needs for each, what of it is here, and what to say if it is
not.

Deliberately does not import JAX: `flaxen doctor` says this also where JAX is broken.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from flaxen.kernels.hardware import AMD, NVIDIA, TPU, Accelerator, find_accelerators


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of accelerator, and what JAX needs for it."""

    hardware: str  # as `hardware.Accelerator` calls it
    name: str  # with its article, for messages
    jax_platforms: str  # JAX's option of that name: the first one computes
    packages: tuple[str, ...]  # each is a plugin of JAX for it; one is enough
    file: str  # that its driver makes
    container: str  # how a container gets it
    check: str  # what to look at if JAX can't start it


KINDS: Mapping[str, Kind] = {
    "cuda": Kind(
        hardware=NVIDIA.name,
        name="an NVIDIA GPU",
        jax_platforms="cuda,cpu",
        packages=("jax-cuda12-plugin", "jax-cuda13-plugin"),
        file="/dev/nvidia0",
        container="docker run --gpus all",
        check="see whether nvidia-smi works here; CUDA 12 needs a driver of version 525 or newer, "
        "CUDA 13 one of 580",
    ),
    "rocm": Kind(
        hardware=AMD.name,
        name="an AMD GPU",
        jax_platforms="rocm,cpu",
        packages=("jax-rocm7-plugin",),
        file="/dev/kfd",
        container="docker run --device /dev/kfd --device /dev/dri",
        check="see whether rocminfo works here; the plugin needs ROCm 7 in /opt/rocm",
    ),
    "tpu": Kind(
        hardware=TPU.name,
        name="a TPU",
        jax_platforms="tpu,cpu",
        packages=("libtpu",),
        file="/dev/accel0",
        container="docker run --privileged",
        check="see that no other process uses it, and that this is a TPU's own virtual machine",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """The accelerators of the machine, and the plugins of the installation."""

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
    if name == "cpu":
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
