"""Chooses the device and the backend from the options, the machine and what is installed; nothing
else does.

Deliberately does not know any op.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

import jax
from packaging.version import Version

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.device import use_device

AUTO = "auto"
# GPU_INVARIANT is asked for by an option of its own.
BACKENDS = (AUTO, *(each.value for each in Backend if each is not Backend.GPU_INVARIANT))

# The version that was tried; it needs Python 3.12 and jax 0.11.1.
_OLDEST_TOKAMAX = "0.0.17"
# JAX's names of the platforms that it computes on. Of any other we know nothing.
_PLATFORMS = {
    "cpu": Backend.CPU,
    "gpu": Backend.GPU,
    "cuda": Backend.GPU,
    "rocm": Backend.GPU,
    "tpu": Backend.TPU,
}


def choose_backend(
    name: str = AUTO,
    device: str = AUTO,
    *,
    num_devices: int = 1,
    platform: str | None = None,
    is_built: bool | None = None,
    has_tokamax: bool | None = None,
) -> Backend:
    """Chooses the backend, after telling JAX the device.

    Args:
      name: one of BACKENDS; auto is the device's own, or `reference` on a CPU without the C++
          kernels, or `tpu-tokamax` on a TPU where tokamax was installed.
      device: one of device.DEVICES; auto is JAX's choice.
      num_devices: those of the mesh; the C++ kernels compute on one.
      platform: JAX's name of what it computes on; None asks JAX.
      is_built: whether the C++ kernels were built; None checks.
      has_tokamax: whether tokamax is installed; None checks.

    Raises:
      ValueError: the backend or the device is unknown, or this machine or installation does not
          have it.
    """
    if name not in BACKENDS:
        raise ValueError(f"the backend {name!r} is not known: use one of {', '.join(BACKENDS)}")
    use_device(device)
    platform = jax.default_backend() if platform is None else platform
    is_built = cpu_library.is_built() if is_built is None else is_built
    has = _PLATFORMS.get(platform, Backend.REFERENCE)
    if has is Backend.CPU and num_devices > 1:
        if name == Backend.CPU.value:
            raise ValueError(
                f"the backend cpu computes on one device, and the mesh has {num_devices}: use "
                "auto or reference, or no mesh"
            )
        has = Backend.REFERENCE
    if has is Backend.CPU and not is_built:
        if name == Backend.CPU.value:
            raise ValueError(f"the backend cpu was asked for, but {cpu_library.missing_reason()}")
        has = Backend.REFERENCE
    if has is Backend.TPU:
        has_tokamax = is_tokamax_installed() if has_tokamax is None else has_tokamax
        return _choose_for_tpu(name, has_tokamax=has_tokamax)
    if name in (AUTO, has.value):
        return has
    if name == Backend.REFERENCE.value:
        return Backend.REFERENCE
    raise ValueError(
        f"the backend {name} was asked for, but JAX computes on {platform} here: use auto, "
        f"{has.value} or reference"
    )


def is_tokamax_installed() -> bool:
    """Whether tokamax is there, in a version that has the op."""
    if importlib.util.find_spec("tokamax") is None:
        return False
    return Version(importlib.metadata.version("tokamax")) >= Version(_OLDEST_TOKAMAX)


def _choose_for_tpu(name: str, *, has_tokamax: bool) -> Backend:
    """A library that is kept for TPUs goes before our own kernel, which has more kinds of heads."""
    if name == AUTO:
        return Backend.TPU_TOKAMAX if has_tokamax else Backend.TPU
    if name == Backend.TPU_TOKAMAX.value and not has_tokamax:
        raise ValueError(
            f"the backend {name} was asked for, but tokamax is not installed: pip install "
            "'flaxen[tokamax]' on Python 3.12 or newer"
        )
    for backend in (Backend.TPU, Backend.TPU_TOKAMAX, Backend.REFERENCE):
        if name == backend.value:
            return backend
    raise ValueError(
        f"the backend {name} was asked for, but JAX computes on tpu here: use auto, tpu, "
        "tpu-tokamax or reference"
    )


def invariant_backend(backend: Backend, *, num_parts: int = 1) -> Backend:
    """The backend that computes the same, and a token's bits from its own sequence alone.

    Args:
      backend: what would compute.
      num_parts: the devices along the mesh's tensor axis.

    Raises:
      ValueError: there is none.
    """
    if backend.is_batch_invariant:
        return backend
    if backend is not Backend.GPU:
        raise ValueError(
            f"batch_invariant was asked for, but on the backend {backend.value} XLA chooses the "
            "order of sums by the size of the batch: use a GPU, or the C++ kernels on a CPU, or "
            "leave it out"
        )
    if num_parts > 1:
        raise ValueError(
            f"batch_invariant was asked for with tensor={num_parts}, but sums over several GPUs "
            "have an order that depends on their size: use one GPU or data=N, or leave it out"
        )
    return Backend.GPU_INVARIANT
