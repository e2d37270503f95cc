"""Imports torchax 0.0.13 together with PyTorch 2.13, which is newer than torchax expects.

Deliberately does not know its use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_torchax() -> ModuleType:
    """Imports the module torchax.

    Raises:
      ImportError: PyTorch or torchax is not installed; says how to install them.
    """
    try:
        import torch
        from torch._decomp import global_decomposition_table

        # torchax registers an implementation that PyTorch now has itself; two would be an error.
        for table in global_decomposition_table.values():
            table.pop(torch.ops.aten.grid_sampler_3d.default, None)
        with _removed_overloads():
            import torchax

            torchax.default_env()  # imports the rest of torchax
    except ImportError as error:
        raise ImportError(
            f"models in PyTorch need packages that are not installed ({error}): run "
            "pip install 'flaxen[torch]'"
        ) from None
    found: ModuleType = torchax
    return found


@contextmanager
def _removed_overloads() -> Iterator[None]:
    """Gives PyTorch dummy overloads while torchax is imported: torchax lists overloads by axis
    names that PyTorch has removed and that nothing calls.
    """
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
