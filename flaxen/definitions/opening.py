"""Opens a model by its name, and decides what runs it: our decoder, transformers' class, or a
definition of the user's own.

Deliberately does not know engines.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from flaxen.definitions.definition import Definition
from flaxen.definitions.files import is_definition, open_definition
from flaxen.definitions.torch.checkpoint import is_installed, open_torch, torch_advice
from flaxen.definitions.user_definition import find_definition
from flaxen.families import UnknownFamilyError
from flaxen.hub.places import Places
from flaxen.hub.pull import OnDownload
from flaxen.hub.resolve import resolve
from flaxen.hub.run_directory import model_in
from flaxen.kernels.backend import Backend
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.encoder_checkpoint import EncoderCheckpoint, is_encoder, open_encoder

IMPLS = ("auto", "flaxen", "torch")


AnySource = Checkpoint | EncoderCheckpoint | Definition


class OpenedModel(NamedTuple):
    """A model whose weights can be loaded."""

    path: Path | None  # of its file or directory; None for the name of code
    source: AnySource

    @property
    def generator(self) -> Checkpoint | Definition:
        """The source of a model that predicts next tokens.

        Raises:
          ValueError: it is an encoder, or a decoder with a classification head.
        """
        source = self.source
        if isinstance(source, EncoderCheckpoint) or not source.model.generates:
            raise ValueError(
                f"{source.name} predicts no next tokens: it is an encoder, or has a classification "
                "head. It can be served (flaxen serve, flaxen.LLM), and flaxen.load gives its "
                "functions; take a model that generates text for anything else"
            )
        return source


def open_model(
    model: str,
    places: Places | None = None,
    *,
    backend: Backend,
    impl: str = "auto",
    definition: Definition | str | None = None,
    on_download: OnDownload | None = None,
) -> OpenedModel:
    """Finds a model and opens it.

    Args:
      model: FILE.py:NAME, package.module:NAME, or a name for `resolve`; also the output directory
          of a run of `flaxen train`.
      places: as in `resolve`.
      backend: what will compute with it.
      impl: one of IMPLS; auto is our decoder if it supports the family, else torch.
      definition: the code of a definition's directory, in place of what the directory names.
      on_download: as in `resolve`.

    Raises:
      ValueError: the model does not exist, can't be opened in this way, or its code may not be run.
    """
    found = find_definition(model)
    if found is not None:
        _check_options(model, impl, definition)
        return OpenedModel(None, found)
    path = model_in(resolve(model, places, on_download))
    if is_definition(path):
        _check_options(str(path), impl, None)
        return OpenedModel(path, open_definition(path, definition))
    _check_options(str(path), "auto", definition)
    return OpenedModel(path, _open_files(path, impl, backend))


def _check_options(name: str, impl: str, definition: Definition | str | None) -> None:
    if impl != "auto":
        raise ValueError(
            f"--impl {impl} chooses what runs a model in Hugging Face's format, and {name} is a "
            "definition of your own: leave --impl out"
        )
    if definition is not None:
        raise ValueError(
            f"--definition (in Python definition=) names the code of a directory that flaxen train "
            f"wrote for a definition, and {name} is none: leave it out"
        )


def _open_files(path: Path, impl: str, backend: Backend) -> AnySource:
    if impl == "torch":
        return open_torch(path, backend)
    if path.is_dir() and is_encoder(path):
        found = open_encoder(path)
        return replace(found, model=found.model.on(backend))
    try:
        checkpoint = open_checkpoint(path)
        return replace(checkpoint, model=checkpoint.model.on(backend))
    except UnknownFamilyError as error:
        if impl == "auto" and path.is_dir() and is_installed():
            return open_torch(path, backend)
        raise ValueError(f"{error}{torch_advice(path)}") from None
