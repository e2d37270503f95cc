"""Loads the C++ CPU kernels, and holds the two settings that are the process's: threads and ISA.

The library is built when flaxen is installed, if there is a compiler; else every op runs through
XLA. Deliberately does not know what the kernels compute.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
from pathlib import Path

import jax

ISAS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")
XLA = "xla"  # stands beside the ISAs, for none of our kernels
_NAME = "libflaxen_native.so"
_TARGETS = (
    "linear",
    "embed",
    "transpose",
    "pack",
    "unpack",
    "rms_norm",
    "rope",
    "log_softmax",
    "attention",
    "causal_attention",
    "causal_gradient",
    "lora_gradient",
    "sample",
)


def is_built() -> bool:
    """Whether the library was built when flaxen was installed."""
    return _path() is not None


def is_enabled() -> bool:
    """Whether ops on the CPU run through the library: it is there, JAX's device is the CPU, and
    nobody asked for XLA."""
    return _settings()["isa"] != XLA and is_built() and jax.default_backend() == "cpu"


def configure(*, isa: str | None = None, num_threads: int | None = None) -> None:
    """Sets the instruction set and the number of threads of all kernels of the process.

    Args:
      isa: one of ISAS, or XLA for none; None leaves it (at first: the best that the machine has).
      num_threads: at least 1; None leaves it (at first: one for each CPU that we may use).

    Raises:
      ValueError: no such ISA, the machine lacks it, the library was not built, or too few threads.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {num_threads}")
    if isa is not None and isa not in (*ISAS, XLA):
        raise ValueError(f"there is no CPU ISA {isa!r}: use one of {', '.join((*ISAS, XLA))}")
    if isa not in (None, XLA):
        if not is_built():
            raise ValueError(f"the CPU ISA {isa} was asked for, but {missing_reason()}")
        if not library().flaxen_choose_isa(isa.encode()):
            raise ValueError(f"this machine has no {isa}: leave the CPU ISA unset to use its best")
    if num_threads is not None and is_built():
        library().flaxen_set_num_threads(num_threads)
    if isa is not None:
        _settings()["isa"] = isa


def isa() -> str:
    """The instruction set in use, or XLA."""
    if not is_enabled():
        return XLA
    return str(library().flaxen_chosen_isa().decode())


def num_threads() -> int:
    """How many threads a kernel uses, the caller's own included; 1 where there is no library."""
    return int(library().flaxen_num_threads()) if is_built() else 1


def supported_isas() -> tuple[str, ...]:
    """The instruction sets that the library and this machine have, best first; () without one."""
    if not is_built():
        return ()
    loaded = library()
    chosen = loaded.flaxen_chosen_isa()
    supported = tuple(isa for isa in ISAS if loaded.flaxen_choose_isa(isa.encode()))
    loaded.flaxen_choose_isa(chosen)
    return supported


def peak_flops(dtype: str) -> float:
    """What the instruction set in use multiplies at most in float32 or bfloat16, by all threads and
    from registers: floating-point operations a second. Takes some milliseconds.

    Raises:
      RuntimeError: the library was not built.
    """
    return float(library().flaxen_peak_flops(int(dtype == "bfloat16")))


def missing_reason() -> str:
    """Why there is no library, and what to do, as part of a sentence."""
    return (
        f"there is no {_NAME}, as no C++ compiler (GCC 11 or newer, or Clang) was found when "
        "flaxen was installed. Install one, then flaxen again with pip's options "
        "--force-reinstall --no-deps --no-cache-dir"
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, its kernels registered with JAX.

    Raises:
      RuntimeError: it was not built.
    """
    path = _path()
    if path is None:
        raise RuntimeError(missing_reason())
    loaded = ctypes.CDLL(str(path))
    loaded.flaxen_chosen_isa.restype = ctypes.c_char_p
    loaded.flaxen_peak_flops.restype = ctypes.c_double
    for name in _TARGETS:
        handler = jax.ffi.pycapsule(getattr(loaded, f"flaxen_{name}"))
        jax.ffi.register_ffi_target(f"flaxen_{name}", handler, platform="cpu")
    loaded.flaxen_set_num_threads(len(os.sched_getaffinity(0)))
    return loaded


@functools.cache
def _settings() -> dict[str, str]:
    return {"isa": ""}


@functools.cache
def _path() -> Path | None:
    beside = Path(__file__).with_name(_NAME)
    if beside.is_file():
        return beside
    # An editable install keeps what it built among the installed packages.
    try:
        installed = importlib.metadata.distribution("flaxen").locate_file(f"flaxen/kernels/{_NAME}")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(installed)) if Path(str(installed)).is_file() else None
