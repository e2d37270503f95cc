"""A model as Python's callers give it: a Model with its parameters, a Definition, or a name.

Deliberately does not know what is done with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxen.definitions.definition import Definition
from flaxen.models.model import Model, Params
from flaxen.text.tokenizer import Tokenizer


def definition_of(
    model: Any, params: Params | None, tokenizer: Tokenizer | str | Path | None
) -> Definition | None:
    """Makes a definition of what a caller gave; None if it is the name of a model in files.

    Args:
      model: a Model, a Definition, or the name of a model.
      params: the parameters of a Model; else None.
      tokenizer: of a Model; else None.

    Raises:
      ValueError: something is missing, or was given twice.
    """
    if isinstance(model, Model):
        if params is None:
            raise ValueError(
                "params is missing: a Model holds no weights, so give what the bridge returned "
                "beside it, as in flaxen.train(model, params, data, ...)"
            )
        if tokenizer is None:
            raise ValueError(
                "tokenizer is missing: give a directory with tokenizer.json, the name of a model "
                "that has it (such as 'smollm2-135m'), or a Tokenizer"
            )
        if not isinstance(tokenizer, Tokenizer | str | Path):
            raise ValueError(
                f"tokenizer must be a directory, the name of a model or flaxen's Tokenizer, got a "
                f"{type(tokenizer).__name__}: write it with its save_pretrained(DIR), and give DIR"
            )
        return Definition(model=model, params=params, tokenizer=tokenizer)
    if not isinstance(model, Definition | str | Path):
        raise ValueError(
            f"model must be a Model, a Definition or the name of a model, got a "
            f"{type(model).__name__}: flaxen.from_nnx, from_linen, from_torch, from_transformers "
            "and from_function make a Model"
        )
    kind = "a Definition" if isinstance(model, Definition) else f"the model {str(model)!r}"
    if params is not None:
        raise ValueError(
            f"{kind} has its own parameters, so params must be left out: give the data by name, as "
            "in flaxen.train(model, data=...)"
        )
    if tokenizer is not None:
        raise ValueError(f"{kind} has its own tokenizer: leave tokenizer out")
    return model if isinstance(model, Definition) else None
