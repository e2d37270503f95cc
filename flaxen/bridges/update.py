"""Puts trained parameters back into the module from which a definition was made.

Imports a framework only if the module is one of its own.
"""

from __future__ import annotations

from typing import Any

from flaxen.models.model import Params


def update_module(module: Any, params: Params) -> None:
    """Puts parameters into a module of Flax NNX or PyTorch, in place.

    Args:
      module: the module that the bridge was given.
      params: in the tree that the bridge returned.

    Raises:
      ValueError: the module holds no parameters itself, as in Flax Linen, or has others.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    if "torch" in packages:
        from flaxen.bridges.torch.bridge import update_torch

        update_torch(module, params)
        return
    if "flax" in packages:
        from flax import nnx

        from flaxen.bridges.flax.nnx import update_nnx

        if isinstance(module, nnx.Module):
            update_nnx(module, params)
            return
    raise ValueError(
        f"{type(module).__name__} holds no parameters that could be updated: only modules of Flax "
        "NNX and PyTorch do. A module of Flax Linen takes its variables at each call, and a "
        "function of JAX its parameters: give it result.params"
    )
