"""Masks that a compiled function waits for, while what comes before them is computed.

Such a function is called before anybody knows its mask: it gets a ticket, and the host publishes
the ticket's mask later. Only the C++ library has this. Until then JAX computes nothing else that
this thread asks for, so the thread must not wait for such a thing.

Deliberately does not know: what is masked, and how a mask is found.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import final

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.kernels.cpu_library import kernel, library

# Longer than grammars of all sequences ever take, and than a debugger is left alone.
_TIMEOUT_S = 600.0
NO_TICKET = np.uint32(0)  # of which nobody waits for a mask: it allows everything


def can_await(backend: Backend) -> bool:
    """Whether functions may wait for masks: calls of compiled functions must not wait for them."""
    settings = ("jax_debug_nans", "jax_debug_infs", "jax_disable_jit")  # under which calls wait
    return (
        backend is Backend.CPU
        and jax.config.read("jax_cpu_enable_async_dispatch")
        and not any(getattr(jax.config, name) for name in settings)
    )


def awaited_mask(
    ticket: jax.Array, after: jax.Array, shape: tuple[int, int], *, timeout_s: float = _TIMEOUT_S
) -> jax.Array:
    """The mask of a ticket, in a compiled function.

    Args:
      ticket: uint32 scalar, from `Tickets.open`.
      after: what is computed before this waits.
      shape: the mask's; lines beyond those that are published allow everything.
      timeout_s: how long it is waited for; then what is computed from it has an error.

    Returns:
      The bits that are published, uint32; all are 1 if the ticket is closed.
    """
    out = jax.ShapeDtypeStruct(shape, jnp.uint32)
    mask: jax.Array = kernel("awaited_mask", out)(ticket, after, timeout_s=np.float32(timeout_s))
    return mask


@final
class Tickets:
    """The tickets of one caller, of which two functions may be on the device at once."""

    def __init__(self) -> None:
        library().flaxen_open_mask.restype = ctypes.c_uint32
        self._open: deque[int] = deque()

    def open(self) -> np.uint32:
        """A new ticket. The one before the last is closed: its function must have ended."""
        while len(self._open) > 1:
            self._close_oldest()
        self._open.append(library().flaxen_open_mask())
        return np.uint32(self._open[-1])

    def publish(self, ticket: np.uint32, mask: np.ndarray) -> None:
        """Gives a ticket its mask, uint32 lines, which is copied; nothing if it is closed."""
        words = np.ascontiguousarray(mask, np.uint32)
        address = words.ctypes.data_as(ctypes.c_void_p)
        size = ctypes.c_int64(words.size)
        library().flaxen_publish_mask(ctypes.c_uint32(int(ticket)), address, size)

    def close(self) -> None:
        """Closes all tickets, so that nothing waits any more. For functions whose results nobody
        will use.
        """
        while self._open:
            self._close_oldest()

    def _close_oldest(self) -> None:
        library().flaxen_close_mask(ctypes.c_uint32(self._open.popleft()))
