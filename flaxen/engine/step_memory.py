"""Estimates the memory that steps take on a device beside weights and KV cache.

An estimate, because the exact number is known only once the largest step is compiled, for which the
size of the KV cache must be known (decision 0274).
"""

from __future__ import annotations

import math

import jax

from flaxen.engine.step_sizes import StepSizes
from flaxen.models.model import Model, ParamSpec
from flaxen.models.params import is_spec

_LIVE_WIDTHS = 6  # of a layer's widest product: inputs, both halves of a gate, sums, attention's
_LIVE_LOGITS = 4  # copies in float32: the logits, those after bias and penalties, filters, noise
_FLOAT32 = 4  # bytes
_WORKSPACE = 2**28  # bytes that libraries of products ask for


def step_bytes(model: Model, sizes: StepSizes, *, itemsize: int, max_model_len: int) -> int:
    """The bytes that the largest step and the rows take.

    Args:
      model: the model.
      sizes: of the steps.
      itemsize: bytes of one number in the dtype of compute.
      max_model_len: tokens of a row.
    """
    specs: list[ParamSpec] = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    wide = [each.shape for each in specs if each.role in ("matrix", "experts")]
    widest = max((max(shape) for shape in wide), default=0)
    activations = sizes.max_num_batched_tokens * widest * _LIVE_WIDTHS * itemsize
    logits = sizes.max_num_seqs * model.vocab_size * _LIVE_LOGITS * _FLOAT32
    rows = sizes.max_num_seqs * (model.vocab_size + max_model_len) * _FLOAT32
    # XLA tries several algorithms for a product on copies of its inputs, while it compiles.
    copy = max(math.prod(each.shape) for each in specs) * itemsize
    return activations + logits + rows + copy + _WORKSPACE
