"""A model in a Hugging Face directory, run by transformers' own class through PyTorch's bridge.

Deliberately does not know engines, nor which models our own decoder has.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from flaxen.weights.definition import Definition


def is_installed() -> bool:
    """Whether PyTorch, torchax and transformers are there."""
    return all(importlib.util.find_spec(name) for name in ("torch", "torchax", "transformers"))


def open_torch(path: Path) -> Definition:
    """Loads a directory with config.json, weights and a tokenizer. No code from it is run.

    Raises:
      ValueError: PyTorch is not installed, it is not such a directory, transformers does not know
        the class, or the class can't be served.
    """
    if not path.is_dir():
        raise ValueError(
            f"{path} is not a directory with config.json: only those run through PyTorch. Leave "
            "impl=torch out"
        )
    from flaxen.models.bridges.torchax_import import import_torchax

    try:
        import_torchax()
        import transformers
    except ImportError as error:
        raise ValueError(str(error)) from None

    from flaxen.models.bridges.transformers import from_transformers

    try:
        module = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype="auto", local_files_only=True, trust_remote_code=False
        )
    except (OSError, KeyError) as error:
        raise ValueError(f"transformers can't load {path}: {error}") from None
    model, params = from_transformers(module)
    module.to("meta")  # the arrays are ours by now; only what it does is still needed
    return Definition(model=model, params=params, tokenizer=path, name=path.absolute().name)
