"""Weights of a served model are read again by the name that it was given."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flaxen.build import build
from flaxen.engine_args import EngineArgs


def test_a_named_model_is_read_again_by_its_name() -> None:
    """As a server does that sleeps without its weights. A name is no path."""
    parts = build(EngineArgs(model="minilm"))
    again = parts.read_weights("minilm")
    assert jax.tree.structure(again) == jax.tree.structure(parts.params)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="there is no file or directory 'smollm2-135m'"):
        parts.read_weights("smollm2-135m")
