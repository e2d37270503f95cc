"""Loads the C++ CPU kernels, and sets what the whole process shares: the thread pool and the ISA.

The library is built when flaxen is installed, if there is a compiler. Deliberately does not know
what the kernels compute, nor whether they are in use: see `kernels.choice`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

ISAS = ("amx", "avx512_bf16", "avx512", "avx2", "portable")
_NAME = "libflaxen_native.so"
_TARGETS = (
    "linear",
    "byte_linear",
    "embed",
    "transpose",
    "pack",
    "unpack",
    "rms_norm",
    "layer_norm",
    "activation",
    "rope",
    "log_softmax",
    "attention",
    "head_linear",
    "causal_attention",
    "bidirectional_attention",
    "causal_gradient",
    "lora_gradient",
    "experts",
    "grouped_linear",
    "experts_gradient",
    "transpose_experts",
    "routing",
    "sample",
    "short_convolution",
    "recurrence",
    "gated_norm",
    "awaited_mask",
)
# The loaded library, if any. JAX knows kernels by name, so a process can only have one.
_loaded: list[ctypes.CDLL] = []
_loading = threading.Lock()


def is_built() -> bool:
    """Whether the library was built when flaxen was installed."""
    return _find() is not None


def start(
    *, path: Path | None = None, isa: str | None = None, num_threads: int | None = None
) -> None:
    """Loads the library and starts its thread pool. To be called once, before anything runs.

    An op that runs before it starts the library with these defaults. A later call changes the
    settings of the process: tests do that, between kernels.

    Args:
      path: the library, at the first call only; None is the installed one.
      isa: one of ISAS; None keeps the current one (initially the machine's best).
      num_threads: at least 1; None keeps the current number (initially one for each CPU of the
          process).

    Raises:
      ValueError: the ISA is unknown or the machine lacks it, num_threads is below 1, or a later
          call has a path.
      RuntimeError: the library was not built, or from another version of flaxen.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"the number of threads must be at least 1, got {num_threads}")
    if isa is not None and isa not in ISAS:
        raise ValueError(f"there is no CPU ISA {isa!r}: use one of {', '.join(ISAS)}")
    with _loading:
        if not _loaded:
            _loaded.append(_load(_find() if path is None else path))
        elif path is not None:
            raise ValueError(
                f"the C++ kernels are loaded already: give the path of {path} to the first call, "
                "before anything is computed"
            )
    loaded = _loaded[0]
    if isa is not None and not loaded.flaxen_choose_isa(isa.encode()):
        raise ValueError(f"this machine has no {isa}: leave the CPU ISA unset to use its best")
    if num_threads is not None:
        loaded.flaxen_set_num_threads(num_threads)


def kernel(
    name: str, outs: Any, *, vmap_method: str = "sequential", **options: Any
) -> Callable[..., Any]:
    """Makes a call of a kernel with `jax.ffi.ffi_call`.

    Args:
      name: a kernel of the library.
      outs: shapes and dtypes of its outputs.
      vmap_method: as in `jax.ffi.ffi_call`.
      **options: the other arguments of `jax.ffi.ffi_call`.

    Raises:
      RuntimeError: the library was not built.
    """
    library()
    call: Callable[..., Any] = jax.ffi.ffi_call(
        f"flaxen_{name}", outs, vmap_method=vmap_method, **options
    )
    return call


def library() -> ctypes.CDLL:
    """The library, for its functions that are not kernels.

    Raises:
      RuntimeError: the library was not built.
    """
    if not _loaded:
        start()
    return _loaded[0]


def isa() -> str:
    """The instruction set in use.

    Raises:
      RuntimeError: the library was not built.
    """
    return str(library().flaxen_chosen_isa().decode())


def num_threads() -> int:
    """The number of threads of a kernel, including the caller's.

    Raises:
      RuntimeError: the library was not built.
    """
    return int(library().flaxen_num_threads())


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
    """Measures the peak rate of the instruction set in use, for products in float32 or bfloat16 by
    all threads from registers: floating-point operations a second. Takes a few milliseconds.

    Raises:
      RuntimeError: the library was not built.
    """
    return float(library().flaxen_peak_flops(int(dtype == "bfloat16")))


def missing_reason() -> str:
    """Why the library is missing, and what to do, as part of a sentence."""
    return (
        f"there is no {_NAME}, as no C++ compiler (GCC 11 or newer, or Clang) was found when "
        "flaxen was installed. Install one, then flaxen again with pip's options "
        "--force-reinstall --no-deps --no-cache-dir"
    )


def _load(path: Path | None) -> ctypes.CDLL:
    """Loads the library and registers its kernels with JAX."""
    if path is None:
        raise RuntimeError(missing_reason())
    loaded = ctypes.CDLL(str(path))
    try:
        loaded.flaxen_chosen_isa.restype = ctypes.c_char_p
        loaded.flaxen_peak_flops.restype = ctypes.c_double
        handlers = {f"flaxen_{name}": loaded[f"flaxen_{name}"] for name in _TARGETS}
    except AttributeError as error:  # the Python files are newer than what was built beside them
        raise RuntimeError(
            f"{path} was built from another version of flaxen ({error}): build it again, by "
            "installing flaxen with pip's options --force-reinstall --no-deps --no-cache-dir"
        ) from error
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    loaded.flaxen_set_num_threads(len(os.sched_getaffinity(0)))
    return loaded


@functools.cache
def _find() -> Path | None:
    beside = Path(__file__).with_name(_NAME)
    if beside.is_file():
        return beside
    # An editable install has the built library among the installed packages.
    try:
        installed = importlib.metadata.distribution("flaxen").locate_file(f"flaxen/kernels/{_NAME}")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(installed)) if Path(str(installed)).is_file() else None
