"""Saves and loads the trained parameters of a definition.

The file's format is the definition's own: each array is named by its path in the tree of
parameters. Deliberately does not know training, or the framework of the definition.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flaxen.models.model import Params
from flaxen.weights.atomic import new_directory
from flaxen.weights.definition import Definition

FILE = "definition.safetensors"
_FORMAT = {"format": "flaxen-definition", "version": "1"}


def save_trained(
    directory: Path, definition: Definition, trained: Params, rest: Any, dtype: jnp.dtype
) -> None:
    """Writes parameters atomically.

    Args:
      directory: the new directory's name; it must not exist or be empty.
      definition: the trained definition.
      trained: its trained parameters; if there are collections, those of the trained collection.
      rest: the other collections by name, or None.
      dtype: the dtype of floating-point arrays in the file; other collections keep their own.

    Raises:
      ValueError: the directory is not empty.
    """
    trained = jax.tree.map(lambda leaf: _in(leaf, dtype), trained)
    name = definition.model.trained
    tree = trained if name is None else {**rest, name: trained}
    with new_directory(directory) as filling:
        save_file(
            {
                path: np.ascontiguousarray(np.asarray(leaf))
                for path, leaf in zip(_names(tree), jax.tree.leaves(tree), strict=True)
            },
            filling / FILE,
            metadata=_FORMAT,
        )


def load_trained(directory: Path, definition: Definition) -> Definition:
    """Returns the definition with the parameters that `save_trained` wrote.

    Raises:
      ValueError: the file is missing or damaged, or its parameters do not fit the definition.
    """
    file = Path(os.path.expanduser(directory)) / FILE
    if not file.is_file():
        raise ValueError(
            f"{directory} holds no {FILE}: give the directory `model` of a run of `flaxen train` "
            "that trained all parameters of a definition"
        )
    leaves, tree = jax.tree.flatten(definition.params)
    structure: Any = tree  # JAX does not annotate its class
    names = _names(definition.params)
    try:
        with safe_open(file, framework="flax") as opened:
            _check_names(file, set(opened.keys()), set(names))
            found = [opened.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} can't be read: {error}") from None
    for name, ours, leaf in zip(names, leaves, found, strict=True):
        if tuple(np.shape(ours)) != leaf.shape:
            raise ValueError(
                f"{name} has the shape {list(leaf.shape)} in {file}, and in the definition "
                f"{list(np.shape(ours))}: the definition is another than the one that was trained"
            )
    return dataclasses.replace(definition, params=jax.tree.unflatten(structure, found))


def _in(leaf: Any, dtype: jnp.dtype) -> jax.Array:
    array: jax.Array = jnp.asarray(leaf)
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _names(tree: Params) -> list[str]:
    """The leaves' paths as Python writes them, which are unique."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(tree)[0]]


def _check_names(file: Path, found: set[str], wanted: set[str]) -> None:
    said = [
        f"{who} {', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}"
        for who, names in (
            ("the file lacks", wanted - found),
            ("the definition has no", found - wanted),
        )
        if names
    ]
    if said:
        raise ValueError(
            f"{file} is not of this definition: {'; '.join(said)}. Give the definition that was "
            "trained"
        )
