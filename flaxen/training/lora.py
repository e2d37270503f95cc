"""Training of LoRA adapters, one or several at once, on one frozen base (arXiv:2106.09685).

Deliberately does not know: losses, optimizers, files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from flaxen.models.adapters import (
    Adapters,
    LoraConfig,
    adapter_shapes,
    expert_stacks,
    with_adapters,
)
from flaxen.models.layout import adapter_shardings
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import Matrix, ParamSpec
from flaxen.training.layout import Layout
from flaxen.training.trainable import Trainable


def lora(
    config: LoraConfig,
    *,
    num_adapters: int = 1,
    dropout: float = 0.0,
    model: Model | None = None,
) -> Trainable:
    """Trains a stack of adapters with one configuration.

    Args:
      config: the configuration of each adapter.
      num_adapters: n.
      dropout: the dropout probability of an adapter's inputs, from 0 to below 1. Which inputs are
          dropped depends on n.
      model: the model, if the adapters are laid over its mesh; None is one device.

    Raises:
      ValueError: a value is out of its range.
    """
    if num_adapters < 1:
        raise ValueError(f"at least 1 adapter must be trained, got {num_adapters}")
    if not 0 <= dropout < 1:
        raise ValueError(f"LoRA's dropout must be from 0 to below 1, got {dropout}")

    def assemble(
        adapters: Adapters, frozen: Params, shape: tuple[int, int], key: jax.Array
    ) -> Params:
        num_rows, _ = shape
        of_row = jnp.repeat(jnp.arange(num_adapters, dtype=jnp.int32), num_rows // num_adapters)
        return with_adapters(
            frozen,
            adapters,
            jnp.full(num_adapters, config.scale, jnp.float32),
            jnp.broadcast_to(of_row[:, None], shape),
            key=key if dropout else None,
            dropout=dropout,
        )

    return Trainable(
        num_adapters=num_adapters,
        specs=lambda adapters: jax.tree.map(_factor, adapters),
        to_compute=None,
        assemble=assemble,
        layout=None if model is None else _layout(config, model),
    )


def _layout(config: LoraConfig, model: Model) -> Layout | None:
    if model.placement is None:
        return None
    whole = dict.fromkeys(("a", "b"), model.placement.replicated)
    layers = tuple(
        {
            name: layer.get(name, whole)  # experts are not divided
            for name in config.targets
            if name in layer or name in stacks
        }
        for layer, stacks in zip(
            adapter_shardings(model, model.placement), expert_stacks(model), strict=True
        )
    )
    return Layout(placement=model.placement, masters={"layers": layers})


def _factor(leaf: jax.Array) -> ParamSpec:
    """The ParamSpec of an adapter's a [I, R] or b [R, O]; with an axis in front for experts."""
    if leaf.ndim > 2:
        return ParamSpec(shape=leaf.shape, axes=(None,) * leaf.ndim, role="experts")
    return ParamSpec(
        shape=leaf.shape,
        axes=(None, None),
        role="matrix",
        matrix=Matrix(inputs=(0,), outputs=(1,)),
    )


def initial_adapters(model: Model, config: LoraConfig, seeds: Sequence[int]) -> Adapters:
    """Makes a stack of new adapters, which do not change the model yet.

    `a` is uniform within 1 / sqrt(I), as in PEFT (Kaiming with a slope of sqrt(5)); `b` is zeros.

    Args:
      model: the model, for its shapes.
      config: the configuration of each adapter.
      seeds: one for each adapter, which depends on its own seed only.

    Returns:
      A stack, float32.

    Raises:
      ValueError: the model lacks a target of the configuration.
    """
    shapes = adapter_shapes(model, config)
    layers = []
    numbers = itertools.count()
    for layer in shapes["layers"]:
        stacks = {}
        for name, shape in layer.items():
            number = next(numbers)
            bound = 1 / math.sqrt(shape["a"][-2])
            drawn = [
                jax.random.uniform(
                    jax.random.fold_in(jax.random.key(seed), number),
                    shape["a"],
                    jnp.float32,
                    -bound,
                    bound,
                )
                for seed in seeds
            ]
            b = jnp.zeros((len(seeds), *shape["b"]), jnp.float32)
            stacks[name] = {"a": jnp.stack(drawn), "b": b}
        layers.append(stacks)
    return {"layers": tuple(layers)}
