"""Opens what is known of a model before its weights are there: a config.json is enough.

Deliberately does not know hardware.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from flaxen.definitions.definition import Definition
from flaxen.definitions.files import is_definition
from flaxen.definitions.opening import open_model
from flaxen.engine_args import EngineArgs
from flaxen.hub.config_file import CONFIG, find_config
from flaxen.hub.run_directory import CHECKPOINTS
from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.model import Model
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.huggingface.config import read_quantized_config
from flaxen.weights.reference import parse_reference


class OpenedShapes(NamedTuple):
    """A model whose shapes are known."""

    name: str
    model: Model
    source: Checkpoint | Definition | None  # None: there is only a configuration


def open_shapes(args: EngineArgs, backend: Backend) -> OpenedShapes:
    """Opens a model for its shapes.

    Args:
      args: its model may also be a config.json, or a directory with one and no weights; of a
        repository that is not here only that file is downloaded.
      backend: what will compute with it.

    Raises:
      ValueError: there is no such model, or it is not supported.
    """
    config = _config_alone(args.model)
    if config is None and args.impl != "torch" and parse_reference(args.model) is None:
        config = find_config(args.model, args.places)
    if config is not None:
        if args.impl == "torch" or args.definition is not None:
            raise ValueError(
                f"{config} is planned with our decoder: a config.json alone says nothing to "
                "--impl torch or --definition. Leave them out, or give the model with its weights"
            )
        found = read_quantized_config(config)
        if found.quantization is not None and args.quantization == "auto":
            method = found.quantization["quant_method"]
            raise ValueError(
                f"{config} says that the weights are quantized ({method}), and only their files, "
                "which are not here, say in which form each is. Give the model with its weights, "
                "or --quantization fp8, int8, int4 or mxfp4 to plan with all weights in one form"
            )
        return OpenedShapes(_name(config), decoder(found.config).on(backend), None)
    source = open_model(
        args.model, args.places, backend=backend, impl=args.impl, definition=args.definition
    ).generator
    return OpenedShapes(source.name, source.model.on(backend), source)


def _config_alone(name: str) -> Path | None:
    """The config.json that a name is, or that is in its directory without any weights."""
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path if path.suffix == ".json" else None
    # A run's directory has a config.json of its own, with the settings of the run.
    if not (path / CONFIG).is_file() or (path / CHECKPOINTS).is_dir() or is_definition(path):
        return None
    has_weights = any(each.suffix in (".safetensors", ".gguf") for each in path.iterdir())
    return None if has_weights else path / CONFIG


def _name(config: Path) -> str:
    """The model's name: its directory's, or the file's if it is not a config.json."""
    path = config.absolute()
    return path.parent.name if path.name == CONFIG else path.stem
