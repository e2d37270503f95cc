"""Reads LoRA adapters of the peft library: adapter_config.json and one safetensors file.

An unsupported field that would change the result is refused by its name; no pickle is read, and
paths named in a file are not followed. Deliberately does not know training or serving.
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flaxen.families.tensors import HF
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.models.model import Model
from flaxen.tensors.tensor import StoredTensor
from flaxen.weights.adapters.adapter import Adapter
from flaxen.weights.adapters.config import lora_config, read_config
from flaxen.weights.adapters.experts import experts_of, modules_with_experts, together
from flaxen.weights.adapters.modules import (
    Modules,
    Rows,
    adapted_modules,
    places_in_modules,
    tensor_names,
)
from flaxen.weights.adapters.selection import Strength, module_strengths, select_modules
from flaxen.weights.safetensors import file_tensors


def load_adapter(directory: Path, model: Model, *, max_rank: int | None = None) -> Adapter:
    """Reads an adapter's directory, from peft or flaxen. Everything is checked before weights are
    read.

    Args:
      directory: has adapter_config.json and adapter_model.safetensors.
      model: the adapted model.
      max_rank: the highest rank that is accepted; None accepts any.

    Raises:
      ValueError: a file is missing or damaged, a field is not supported, a tensor is missing,
          unknown or of the wrong shape, or a weight is not finite; the message names it.
    """
    fields = read_config(directory / ADAPTER_CONFIG)
    stored = _read_tensors(directory)
    path = directory / ADAPTER_WEIGHTS
    known: Modules = modules_with_experts(model)
    held = {
        module
        for layer in known
        for module in layer.values()
        if any(tensor in stored for tensor in tensor_names(module).values())
    }
    if stored and not held:
        raise ValueError(f"{path}: {_strange_names(stored, known)}")
    if held.isdisjoint(each.module for layer in experts_of(model) for each in layer.values()):
        # Experts are no modules in transformers 5: there "down_proj" names the other ones alone.
        known = adapted_modules(model)
    targets = tuple(
        dict.fromkeys(target for layer in known for target in layer if layer[target] in held)
    )
    places = places_in_modules(model, known)
    try:
        _check_layout(fields, model)
        adapted = select_modules(fields, known, held)
        strengths = module_strengths(fields, sorted(adapted))
        config = lora_config(fields, targets, strengths, max_rank)
    except ValueError as error:
        raise ValueError(f"{directory / ADAPTER_CONFIG}: {error}") from None
    try:
        shapes = _shapes(model, config)
        _check_tensors(stored, shapes, known, places, strengths)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    layers = tuple(
        {
            target: _read_pair(
                path, stored, named[target], place.get(target), shape[target], config, strengths
            )
            for target in shape
        }
        for named, place, shape in zip(known, places, shapes, strict=True)
    )
    found = Adapter(config=config, layers=layers)
    return together(found, model) if model.num_experts else found


def _shapes(model: Model, config: LoraConfig) -> tuple[dict[str, Any], ...]:
    """The shapes of a and b by target, where each expert is one."""
    of_experts = experts_of(model)
    single = {target for layer in of_experts for target in layer}
    plain = tuple(target for target in config.targets if target not in single)
    own: tuple[Any, ...] = tuple({} for _ in of_experts)
    if plain:
        own = adapter_shapes(model, replace(config, targets=plain))["layers"]
    return tuple(
        layer
        | {
            target: {"a": (each.shape[0], config.rank), "b": (config.rank, each.shape[1])}
            for target, each in experts.items()
            if target in config.targets
        }
        for layer, experts in zip(own, of_experts, strict=True)
    )


def _read_tensors(directory: Path) -> dict[str, StoredTensor]:
    if (directory / ADAPTER_WEIGHTS).is_file():
        return file_tensors(directory / ADAPTER_WEIGHTS)
    pickles = sorted(entry.name for entry in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{directory} has no {ADAPTER_WEIGHTS}; {pickles[0]} is there, but pickle files can "
            "run code and are never read: save the adapter again with safetensors"
        )
    raise ValueError(
        f"{directory / ADAPTER_WEIGHTS} does not exist: {directory} is no complete adapter"
    )


def _strange_names(stored: Mapping[str, StoredTensor], known: Modules) -> str:
    module = next(iter(known[0].values()))
    return (
        f"no tensor belongs to a module of this model: the first is {min(stored)!r}, and a name "
        f"that fits is {tensor_names(module)['a']!r}. The adapter is another model's, or was not "
        "saved by peft's save_pretrained"
    )


def _check_layout(fields: Mapping[str, Any], model: Model) -> None:
    """Checks fan_in_fan_out, which says how the model's files have their weights."""
    if fields.get("fan_in_fan_out") in (None, False) or not model.has_layers:
        return
    if any(rule.transposed for rule in model.module_rules or HF):
        raise ValueError(
            f"fan_in_fan_out = {fields['fan_in_fan_out']!r} is not supported: the model's weights "
            "are [out, in]"
        )


def _check_tensors(
    stored: Mapping[str, StoredTensor],
    shapes: Any,
    modules: Modules,
    places: Sequence[Mapping[str, Rows]],
    strengths: Mapping[str, Strength],
) -> None:
    left = dict(stored)
    for layer, named, place in zip(shapes, modules, places, strict=True):
        one_of_each = {named[target]: target for target in layer}  # fused targets share a module
        for module, target in one_of_each.items():
            if module not in strengths:
                continue
            rank, parts = strengths[module].rank, layer[target]
            num_outputs = place[target].num_rows if target in place else parts["b"][1]
            needed = {"a": (rank, parts["a"][0]), "b": (num_outputs, rank)}
            for part, tensor in tensor_names(module).items():
                if tensor not in left:
                    raise ValueError(
                        f"tensor {tensor} is missing: {ADAPTER_CONFIG} names its module"
                    )
                found = left.pop(tensor).shape
                if found != needed[part]:
                    raise ValueError(
                        f"tensor {tensor} has shape {list(found)}, but the model and the adapter's "
                        f"rank need {list(needed[part])}: they do not belong together"
                    )
    if not left:
        return
    num_layers = f"this model's {len(shapes)} layers"
    where = num_layers if any(places) else "this definition, as lora_targets lists"
    raise ValueError(
        f"tensor {min(left)} has no place: only LoRA of the layers' linear weights is supported, "
        f"of {where}"
    )


def _read_pair(
    path: Path,
    stored: Mapping[str, StoredTensor],
    module: str,
    place: Rows | None,
    shapes: Mapping[str, tuple[int, ...]],
    config: LoraConfig,
    strengths: Mapping[str, Strength],
) -> dict[str, np.ndarray]:
    """Reads a module's a and b, adjusted to the common rank and scale of all modules.

    A lower rank is padded with zeros, and a module without an adapter is all zeros: neither changes
    the product. If a module has its own scale, its b is multiplied by the ratio.
    """
    pair = {part: np.zeros(shape, np.float32) for part, shape in shapes.items()}
    if module not in strengths:
        return pair
    rank = strengths[module].rank
    for part, name in tensor_names(module).items():
        tensor = stored[name]
        values = tensor.read(0, tensor.shape[0]).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: tensor {name} has values that are not finite")
        if part == "b" and place is not None:
            values = values[place.rows]
        used = np.s_[:, :rank] if part == "a" else np.s_[:rank]
        pair[part][used] = values.T
    factor = strengths[module].scale(config.use_rslora) / config.scale
    if factor != 1:
        pair["b"] *= np.float32(factor)
    return pair
