"""Imports torchax 0.0.13 beside a PyTorch that is newer than it: 2.13.

Deliberately does not know what it is used for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_torchax() -> ModuleType:
    """The module torchax.

    Raises:
      ImportError: PyTorch or torchax is not installed; says how to install them.
    """
    try:
        import torch
        from torch._decomp import global_decomposition_table

        # torchax registers its own, and PyTorch has one by now: two are an error.
        for table in global_decomposition_table.values():
            table.pop(torch.ops.aten.grid_sampler_3d.default, None)
        with _removed_overloads():
            import torchax

            torchax.default_env()  # imports the rest
    except ImportError as error:
        raise ImportError(
            f"models in PyTorch need more than is installed ({error}): pip install 'flaxen[torch]'"
        ) from None
    found: ModuleType = torchax
    return found


@contextmanager
def _removed_overloads() -> Iterator[None]:
    """Meanwhile PyTorch has a name for what it no longer has: torchax lists overloads of operations
    by the names of axes, which nothing calls."""
    from torch._ops import OpOverloadPacket

    own = OpOverloadPacket.__getattr__

    def lenient(packet: Any, name: str) -> Any:
        try:
            return own(packet, name)
        except AttributeError:
            if "imname" in name or "names" in name:
                return f"{packet}.{name}"
            raise

    OpOverloadPacket.__getattr__ = lenient
    try:
        yield
    finally:
        OpOverloadPacket.__getattr__ = own
