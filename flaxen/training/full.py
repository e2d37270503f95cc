"""Training of all parameters: float32 master parameters, cast and packed for the forward.

Deliberately does not know: losses, optimizers, files, model families.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from flaxen.models.layout import param_shardings
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import Init, ParamSpec
from flaxen.models.params import compute_params, is_spec
from flaxen.training.layout import Layout
from flaxen.training.trainable import Trainable


def full(model: Model, *, dtype: jnp.dtype) -> Trainable:
    """Trains all of a model's parameters; of a Flax definition, the trained collection.

    Args:
      model: the model; its backend decides the form that is computed with.
      dtype: of compute, float32 or bfloat16.
    """
    name = model.trained
    specs = model.param_specs if name is None else model.param_specs[name]

    def to_compute(masters: Params) -> Params:
        return compute_params(specs, masters, dtype=dtype, backend=model.backend)

    def assemble(compute: Params, frozen: Params, shape: tuple[int, int], key: jax.Array) -> Params:
        return compute if name is None else {**frozen, name: compute}

    layout = None
    if model.placement is not None:
        masters = param_shardings(specs, model.placement)
        layout = Layout(placement=model.placement, masters=masters)
    computes_with_masters = dtype == jnp.float32 and not model.backend.packs_weights
    return Trainable(
        num_adapters=None,
        specs=lambda masters: specs,
        to_compute=None if computes_with_masters else to_compute,
        assemble=assemble,
        layout=layout,
    )


def initial_params(model: Model, seed: int) -> Params:
    """Random float32 master parameters to train from scratch.

    Each parameter starts as its `ParamSpec.init` says: "normal" has standard deviation 0.02, and
    "residual" 0.02 / sqrt(2 L), as in GPT-2
    (https://d4mucfpksywv.cloudfront.net/better-language-models/language-models.pdf).

    Args:
      model: the model, for its shapes and how each parameter starts.
      seed: the same seed gives the same parameters, on any machine.
    """
    num_layers = len(model.cache_specs)
    specs, structure = jax.tree.flatten(model.param_specs, is_leaf=is_spec)
    root = jax.random.key(seed)

    def one(number: int, spec: ParamSpec) -> jax.Array:
        if spec.init in ("ones", "zeros"):
            return jnp.full(spec.shape, spec.init == "ones", jnp.float32)
        if spec.init in ("decay", "time_step"):
            return _of_heads(spec.init, spec.shape[0])
        if spec.init == "taps":
            most = 1 / math.sqrt(spec.shape[0])
            key = jax.random.fold_in(root, number)
            return jax.random.uniform(key, spec.shape, jnp.float32, -most, most)
        deviation = 0.02 / math.sqrt(2 * num_layers) if spec.init == "residual" else 0.02
        drawn = jax.random.normal(jax.random.fold_in(root, number), spec.shape, jnp.float32)
        return deviation * drawn

    leaves = [one(number, spec) for number, spec in enumerate(specs)]
    return jax.tree.unflatten(structure, leaves)


def _of_heads(init: Init, num_heads: int) -> jax.Array:
    """Numbers that differ between the heads of a recurrence, so that they forget at different
    speeds, with the ranges of Mamba-2: decays of 1 to 16 in a unit of time, time steps of 0.001 to
    0.1.
    """
    if init == "decay":
        return jnp.log(jnp.linspace(1.0, 16.0, num_heads))
    steps = jnp.exp(jnp.linspace(math.log(0.001), math.log(0.1), num_heads))
    return jnp.log(jnp.expm1(steps))  # the inverse of softplus
