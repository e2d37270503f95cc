"""Adapters of experts in files, which have a module for each expert; ours are stacks.

Between the two, each expert is a target of its own, such as w_experts_up__3, of two axes.
Deliberately does not know configurations or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from flaxen.families.rules import Stack
from flaxen.families.tensors import HF
from flaxen.models.adapters import expert_stacks
from flaxen.models.model import Model
from flaxen.weights.adapters.adapter import Adapter, Layer
from flaxen.weights.adapters.modules import Modules, adapted_modules

_WEIGHT = ".weight"


class Expert(NamedTuple):
    """One expert's part of a stack."""

    stack: str  # the target
    number: int
    module: str  # its name in files
    shape: tuple[int, int]  # (I, O)


def experts_of(model: Model) -> list[dict[str, Expert]]:
    """For each layer: the target of each expert that files have as a module of its own."""
    if not model.has_layers:
        return [{}]
    return [
        {
            f"{rule.params[0]}__{index}": Expert(
                rule.params[0],
                index,
                rule.tensors[0].format(layer=number, expert=index).removesuffix(_WEIGHT),
                (layer[rule.params[0]].shape[1], layer[rule.params[0]].shape[2]),
            )
            for rule in model.module_rules or HF
            if rule.steps == (Stack(),) and rule.params[0] in layer
            for index in range(layer[rule.params[0]].shape[0])
        }
        for number, layer in enumerate(expert_stacks(model))
    ]


def modules_with_experts(model: Model) -> Modules:
    """The modules of all targets, with one for each expert."""
    return [
        {**layer, **{target: each.module for target, each in experts.items()}}
        for layer, experts in zip(adapted_modules(model), experts_of(model), strict=True)
    ]


def apart(adapter: Adapter, model: Model) -> Adapter:
    """The adapter with a target for each expert in place of the stacks.

    Raises:
      ValueError: files have the experts of a target in one tensor, beside which PEFT has no module.
    """
    known = experts_of(model)
    stacks = {each.stack for layer in known for each in layer.values()}
    own = {name for layer in expert_stacks(model) for name in layer}
    if lacking := [name for name in adapter.config.targets if name in own - stacks]:
        raise ValueError(
            f"files of adapters can't hold those of {', '.join(lacking)}: the model's files have "
            "all experts in one tensor. Leave them out of the targets"
        )
    layers = []
    for layer, experts in zip(adapter.layers, known, strict=True):
        pairs = {
            target: {part: layer[each.stack][part][each.number] for part in ("a", "b")}
            for target, each in experts.items()
            if each.stack in layer
        }
        layers.append({name: pair for name, pair in layer.items() if name not in own} | pairs)
    names = dict.fromkeys(target for layer in layers for target in layer)
    return Adapter(config=replace(adapter.config, targets=tuple(names)), layers=tuple(layers))


def together(adapter: Adapter, model: Model) -> Adapter:
    """The inverse: stacks, with zeros for the experts without an adapter."""
    layers = []
    for layer, experts, specs in zip(
        adapter.layers, experts_of(model), expert_stacks(model), strict=True
    ):
        plain = {target: pair for target, pair in layer.items() if target not in experts}
        stacks = {
            name: _stacked(name, spec.shape, layer, experts, adapter.config.rank)
            for name, spec in specs.items()
            if any(experts[target].stack == name for target in layer if target in experts)
        }
        layers.append(plain | stacks)
    names = dict.fromkeys(target for layer in layers for target in layer)
    return Adapter(config=replace(adapter.config, targets=tuple(names)), layers=tuple(layers))


def _stacked(
    name: str, shape: Sequence[int], layer: Layer, experts: Mapping[str, Expert], rank: int
) -> dict[str, np.ndarray]:
    num_experts, num_inputs, num_outputs = shape
    a = np.zeros((num_experts, num_inputs, rank), np.float32)
    b = np.zeros((num_experts, rank, num_outputs), np.float32)
    for target, pair in layer.items():
        if target in experts and experts[target].stack == name:
            a[experts[target].number], b[experts[target].number] = pair["a"], pair["b"]
    return {"a": a, "b": b}
