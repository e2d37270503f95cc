"""Decides which implementation runs a model in files: our decoder, or transformers' class.

Deliberately does not know engines, nor how a name is resolved to a path.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flaxen.kernels.backend import Backend
from flaxen.models.families import UnknownFamilyError
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.definition import Definition
from flaxen.weights.torch.checkpoint import is_installed, open_torch, torch_advice

IMPLS = ("auto", "flaxen", "torch")


def open_files(path: Path, impl: str, backend: Backend) -> Checkpoint | Definition:
    """Opens a model's file or directory.

    Args:
      path: from weights.resolve.
      impl: one of IMPLS; auto is our decoder if it supports the family, else torch.
      backend: the backend of the resulting model.

    Raises:
      ValueError: the model can't be served in this way; the message says why.
    """
    if impl == "torch":
        return open_torch(path, backend)
    try:
        checkpoint = open_checkpoint(path)
        return replace(checkpoint, model=checkpoint.model.on(backend))
    except UnknownFamilyError as error:
        if impl == "auto" and path.is_dir() and is_installed():
            return open_torch(path, backend)
        raise ValueError(f"{error}{torch_advice(path)}") from None
