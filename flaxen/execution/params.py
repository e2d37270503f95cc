"""Checks that new parameters can replace those for which a step was compiled.

Deliberately does not know models.
"""

from __future__ import annotations

from typing import Any

import jax

from flaxen.models.model import Params


def check_same(old: Params, new: Params) -> None:
    """Compares two trees of parameters.

    Raises:
      ValueError: the tree, or the shape or dtype of a leaf differs.
    """
    have_tree: Any = jax.tree.structure(old)
    if have_tree != jax.tree.structure(new):
        raise ValueError(
            "the new parameters have another tree than the engine's: they need the same names, "
            "layers and packing"
        )

    def check(path: tuple[object, ...], have: jax.Array, given: jax.Array) -> None:
        if (have.shape, have.dtype) != (given.shape, given.dtype):
            raise ValueError(
                f"the parameter {jax.tree_util.keystr(path)} must be {have.dtype}"
                f"{list(have.shape)}, got {given.dtype}{list(given.shape)}"
            )

    jax.tree_util.tree_map_with_path(check, old, new)
