"""A model in a Hugging Face directory, run by transformers' own class through PyTorch's bridge.

Deliberately does not know engines, nor which models our own decoder has.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flaxen.definitions.definition import Definition
from flaxen.definitions.torch.config import check_runs_through_torch
from flaxen.hub.weight_files import read_json
from flaxen.kernels.backend import Backend
from flaxen.weights.safetensors import read_tensors


def is_installed() -> bool:
    """Whether PyTorch, torchax and transformers are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "torchax", "transformers"))


def torch_advice(path: Path) -> str:
    """The advice about PyTorch if our own decoder does not support a family.

    Args:
      path: a GGUF file, or a directory with config.json.
    """
    if not path.is_dir():
        return ""
    try:
        check_runs_through_torch(read_json(path / "config.json"))
    except ValueError as error:
        return f". Nor can it run through PyTorch: {error}"
    return "; or run it through PyTorch: pip install 'flaxen[torch]', and impl=torch"


def open_torch(path: Path, backend: Backend) -> Definition:
    """Loads a directory with config.json, safetensors and a tokenizer. No code from it is run.

    Raises:
      ValueError: PyTorch is not installed, the directory is incomplete, transformers does not know
          the class, the weights do not fit the class, or the class can't be served.
    """
    if not path.is_dir():
        raise ValueError(
            f"{path} is not a directory with config.json: only those run through PyTorch. Leave "
            "impl=torch out"
        )
    config = path / "config.json"
    fields = read_json(config)
    try:
        check_runs_through_torch(fields)
    except ValueError as error:
        raise ValueError(f"{config}: {error}") from None
    from flaxen.bridges.torch.torchax_import import import_torchax

    try:
        import_torchax()
        import transformers  # noqa: F401
    except ImportError as error:
        raise ValueError(str(error)) from None

    from flaxen.bridges.torch.transformers import from_transformers
    from flaxen.definitions.torch.module import DTYPES, load_module

    tensors = read_tensors(path, DTYPES)
    try:
        module = load_module(fields, tensors)
        model, params = from_transformers(module, backend=backend.value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error.__cause__
    module.to("meta")  # the arrays were copied; only the module's code is still needed
    return Definition(model=model, params=params, tokenizer=path, name=path.absolute().name)
