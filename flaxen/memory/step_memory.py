"""Estimates the memory that steps take on a device beside weights and KV cache.

An estimate, because the exact number is known only once the largest step is compiled, for which the
size of the KV cache must be known (decision 0274).
"""

from __future__ import annotations

import math

import jax

from flaxen.execution.step_sizes import StepSizes
from flaxen.models.layout import param_sharding, vocab_placement
from flaxen.models.model import Model
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import is_spec
from flaxen.sharding.placement import Placement

_LIVE_WIDTHS = 6  # of a layer's widest product: inputs, both halves of a gate, sums, attention's
_LIVE_LOGITS = 4  # copies in float32: the logits, those after bias and penalties, filters, noise
_FLOAT32 = 4  # bytes
_WIDE = ("matrix", "experts")  # roles whose products are activations
_WORKSPACE = 2**28  # bytes that libraries of products ask for


def step_bytes(model: Model, sizes: StepSizes, *, itemsize: int, max_model_len: int) -> int:
    """The bytes that the largest step and the rows take on one device.

    Args:
      model: the model; on a mesh each device has its part of a layer and of the vocabulary.
      sizes: of the steps.
      itemsize: bytes of one number in the dtype of compute.
      max_model_len: tokens of a row.
    """
    specs: list[ParamSpec] = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    shapes = [_of_one_layer(each, model.placement) for each in specs]
    wide = [shape for shape, each in zip(shapes, specs, strict=True) if each.role in _WIDE]
    widest = max((max(shape) for shape in wide), default=0)
    vocab_size = model.vocab_size
    if (placement := vocab_placement(model)) is not None:
        vocab_size //= placement.shape.tensor
    activations = sizes.max_num_batched_tokens * widest * _LIVE_WIDTHS * itemsize
    logits = sizes.max_num_seqs * vocab_size * _LIVE_LOGITS * _FLOAT32
    rows = sizes.max_num_seqs * (model.vocab_size + max_model_len) * _FLOAT32
    # XLA tries several algorithms for a product on copies of its inputs, while it compiles.
    copy = max(map(math.prod, shapes)) * itemsize
    return activations + logits + rows + copy + _WORKSPACE


def _of_one_layer(spec: ParamSpec, placement: Placement | None) -> tuple[int, ...]:
    """The shape of a parameter's part on one device; one layer of a stack."""
    shape = spec.shape
    if placement is not None:
        shape = param_sharding(spec, placement).shard_shape(shape)
    stacked = None if spec.matrix is None else spec.matrix.layers
    return tuple(size for axis, size in enumerate(shape) if axis != stacked)
