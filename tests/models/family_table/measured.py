"""How far a row's logits are from transformers'."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.family_table.checkpoint import made
from tests.models.family_table.row import Row
from tests.models.golden import logits_of


def largest_error(row: Row) -> float:
    """The largest difference of a float32 logit by whole prefill, on each backend that is here."""
    expected = made(row)
    checkpoint = open_checkpoint(expected.directory)
    backends = (Backend.REFERENCE, *((Backend.CPU,) if cpu_library.is_built() else ()))
    errors = []
    for backend in backends:
        params = checkpoint.load_params(jnp.dtype("float32"), backend=backend)
        found = logits_of(checkpoint.model.on(backend), params, expected.tokens)
        errors.append(float(np.abs(found - expected.logits).max()))
    return max(errors)
