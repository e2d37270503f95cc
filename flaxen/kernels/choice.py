"""Chooses the backend: the only place that looks at the device, the options and what is installed.

Deliberately does not know what is computed.
"""

from __future__ import annotations

import jax

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend

AUTO = "auto"
BACKENDS = (AUTO, *(each.value for each in Backend))

_DEVICES = {"cpu": Backend.CPU, "gpu": Backend.GPU, "cuda": Backend.GPU, "rocm": Backend.GPU}


def choose_backend(
    name: str = AUTO, *, device: str | None = None, is_built: bool | None = None
) -> Backend:
    """The backend to compute with.

    Args:
      name: one of BACKENDS; auto is the device's own, and `reference` on a CPU without kernels.
      device: JAX's name of what it computes on; None asks JAX.
      is_built: whether the C++ kernels were built; None looks.

    Raises:
      ValueError: no such backend, or this device or installation does not have it.
    """
    if name not in BACKENDS:
        raise ValueError(f"the backend {name!r} is not known: use one of {', '.join(BACKENDS)}")
    device = jax.default_backend() if device is None else device
    is_built = cpu_library.is_built() if is_built is None else is_built
    has = Backend.TPU if device == "tpu" else _DEVICES.get(device, Backend.REFERENCE)
    if has is Backend.CPU and not is_built:
        if name == Backend.CPU.value:
            raise ValueError(f"the backend cpu was asked for, but {cpu_library.missing_reason()}")
        has = Backend.REFERENCE
    if name in (AUTO, has.value):
        return has
    if name == Backend.REFERENCE.value:
        return Backend.REFERENCE
    raise ValueError(
        f"the backend {name} was asked for, but JAX computes on {device} here: use auto, "
        f"{has.value} or reference"
    )


def why_no_kernels(
    name: str = AUTO, *, device: str | None = None, is_built: bool | None = None
) -> str:
    """Why the C++ kernels do not compute, as part of a sentence; the arguments of `choose_backend`
    for a choice that is not Backend.CPU."""
    device = jax.default_backend() if device is None else device
    if device != "cpu":
        return f"JAX computes on {device} here"
    if not (cpu_library.is_built() if is_built is None else is_built):
        return cpu_library.missing_reason()
    return f"the backend {name} was chosen in their place"
