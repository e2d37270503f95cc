"""Counts from shapes what one device reads, multiplies and sends in a training step.

Deliberately does not know hardware.
"""

from __future__ import annotations

import math

import jax

from flaxen.models.cache import State, attention_only, numbers_per_key
from flaxen.models.model import Model
from flaxen.models.params import is_spec
from flaxen.planning.collectives import Collective
from flaxen.planning.params import device_bytes, num_query_heads
from flaxen.planning.roofline import Work
from flaxen.planning.step_work import STATE_OPERATIONS, met_keys
from flaxen.training.abstract_step import AbstractStep

_FLOAT32 = 4  # bytes: of gradients, and of the sums of products that devices add up


def training_work(model: Model, shapes: AbstractStep, has_remat: bool, itemsize: int) -> Work:
    """The work of one device: one microbatch forward and backward, and the update.

    Args:
      model: the model on its mesh.
      shapes: of the step.
      has_remat: whether the backward pass computes the layers again.
      itemsize: bytes of one number in the dtype of compute.
    """
    assert model.placement is not None
    mesh = model.placement.shape
    num_rows, length = shapes.microbatch.tokens.shape
    parts = mesh.data * mesh.fsdp * mesh.context
    tokens = num_rows * length / parts
    layers, unembed = _multiplied(model)
    heads = num_query_heads(model.param_specs)
    attention = sum(
        2 * heads * numbers_per_key(spec) * num_rows * met_keys(spec, length, length)[1]
        for spec in attention_only(model.cache_specs)
    )
    states = sum(spec.num_values for spec in model.cache_specs if isinstance(spec, State))
    attention += STATE_OPERATIONS * states * num_rows * length
    forward = 2 * tokens * (layers + unembed) / mesh.tensor + attention / parts / mesh.tensor
    again = 2 * tokens * layers / mesh.tensor + attention / parts / mesh.tensor
    # The backward pass multiplies twice: for activations, and for what is trained.
    is_full = shapes.frozen is None
    times = 3 if is_full else 2
    used = shapes.compute if is_full else shapes.frozen
    read = device_bytes(used) * mesh.fsdp  # whole, but for what the tensor axis divides
    updated = 2 * device_bytes((shapes.masters, shapes.opt_state))
    return Work(
        weight_bytes=(times + has_remat) * read,
        cache_bytes=0,
        other_bytes=updated + 3 * device_bytes(shapes.sums),
        num_operations=times * forward + has_remat * again,
        collectives=_collectives(model, shapes, int(tokens), itemsize, has_remat),
    )


def _multiplied(model: Model) -> tuple[int, int]:
    """The numbers of all layers, and of the unembedding, that a token is multiplied with."""
    layers = unembed = 0
    for spec in jax.tree.leaves(model.param_specs, is_leaf=is_spec):
        size = round(math.prod(spec.shape) * spec.share)
        if spec.role in ("matrix", "experts"):
            layers += size
        elif spec.is_multiplied:
            unembed += size
    return layers, unembed


def _collectives(
    model: Model, shapes: AbstractStep, num_tokens: int, itemsize: int, has_remat: bool
) -> tuple[Collective, ...]:
    """Sums of activations over tensor, and for what is divided over fsdp a gathering in each pass
    and the gradients' way back; replicas add up their gradients.
    """
    assert model.placement is not None
    mesh = model.placement.shape
    found = []
    if mesh.tensor > 1:
        count = len(model.cache_specs) * (4 + 2 * has_remat)
        size = num_tokens * (model.embed_dim or 0) * _FLOAT32
        found.append(_all("all-reduce", mesh.tensor, count, count * size))
    used = shapes.compute if shapes.frozen is None else shapes.frozen
    num_arrays = len(jax.tree.leaves(used))
    gradients = device_bytes(shapes.sums.gradients)
    replicas = mesh.data * mesh.context
    if mesh.fsdp > 1:
        passes = 2 + has_remat
        gathered = passes * device_bytes(used) * mesh.fsdp
        found.append(_all("all-gather", mesh.fsdp, passes * num_arrays, gathered))
    if mesh.fsdp > 1 and shapes.frozen is None:
        found.append(_all("reduce-scatter", mesh.fsdp, num_arrays, gradients))
    elif mesh.fsdp > 1:  # adapters are small: they count as if each device had them whole
        replicas *= mesh.fsdp
    if replicas > 1:
        num_gradients = len(jax.tree.leaves(shapes.sums.gradients))
        found.append(_all("all-reduce", replicas, num_gradients, gradients))
    return tuple(found)


def _all(kind: str, num_devices: int, count: int, num_bytes: int) -> Collective:
    return Collective(kind=kind, num_devices=num_devices, count=count, num_bytes=num_bytes)
