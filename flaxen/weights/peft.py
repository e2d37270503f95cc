"""LoRA adapters as the peft library stores them: adapter_config.json and one safetensors file.

What would change the result and is not supported is refused by its name; no pickle is read, and no
path that a file names is followed. Deliberately does not know who trains or serves adapters.
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from flaxen.models.adapters import LORA_TARGETS, LoraConfig, adapter_shapes
from flaxen.models.model import Model
from flaxen.weights.adapter import Adapter, check_adapter
from flaxen.weights.atomic import new_directory
from flaxen.weights.huggingface import file_tensors
from flaxen.weights.peft_modules import (
    Modules,
    adapted_modules,
    decoder_modules,
    last_names,
    tensor_names,
)
from flaxen.weights.tensor import StoredTensor
from flaxen.weights.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json

CONFIG, WEIGHTS = ADAPTER_CONFIG, ADAPTER_WEIGHTS

_MAX_CONFIG_BYTES = 1 << 20
# Fields that do not change what a finished adapter computes, whatever they hold.
_BOOKKEEPING = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "megatron_core", "qalora_group_size", "exclude_modules",
    "ensure_weight_tying",
}  # fmt: skip
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "init_lora_weights",
    "fan_in_fan_out",
}  # fmt: skip
# Other ways to begin change the base's weights too, and what is stored is relative to those.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


def save_adapter(
    directory: Path, adapter: Adapter, base_name: str | None = None, *, model: Model | None = None
) -> None:
    """Writes an adapter's directory, whole or not at all; one of the same name is replaced.

    Args:
      directory: its name.
      adapter: float32, as it is stored.
      base_name: the model that it belongs to, for people and for peft.
      model: what it adapts; our decoder need not be given.

    Raises:
      ValueError: the directory holds something else, or it adapts a definition, which is not given.
    """
    config = adapter.config
    modules, is_ours = _modules_of(adapter, model)
    names = {name for layer in modules for name in layer.values()}
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.use_rslora,
        # A definition's in full: an end of a name may also be that of a module without an adapter.
        "target_modules": last_names(modules) if is_ours else sorted(names),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "lora_dropout": 0.0,
    }
    tensors = {}
    for layer, named in zip(adapter.layers, modules, strict=True):
        for target, each in layer.items():
            for part, tensor in tensor_names(named[target]).items():
                tensors[tensor] = np.ascontiguousarray(each[part].T)
    with new_directory(directory, replaces=(CONFIG, WEIGHTS)) as filling:
        text = json.dumps(fields, indent=2, sort_keys=True)
        (filling / CONFIG).write_text(text + "\n", encoding="utf-8")
        save_file(tensors, filling / WEIGHTS, metadata={"format": "pt"})


def load_adapter(directory: Path, model: Model, *, max_rank: int | None = None) -> Adapter:
    """Reads an adapter's directory, by peft or by us. All is checked before any weight is read.

    Args:
      directory: holds adapter_config.json and adapter_model.safetensors.
      model: what it adapts.
      max_rank: the highest that is accepted; None accepts any.

    Raises:
      ValueError: a file is missing or damaged, a field is not supported, a tensor is missing, has
        no place or the wrong shape, or a weight is not finite; the message names it.
    """
    fields = _read_config(directory / CONFIG)
    stored = _read_tensors(directory)
    path = directory / WEIGHTS
    known = adapted_modules(model)
    targets = tuple(
        target
        for target, module in known[0].items()
        if any(tensor in stored for tensor in tensor_names(module).values())
    )
    try:
        _check_layout(fields, targets)
        _check_target_modules(fields.get("target_modules"), targets, known)
        config = _lora_config(fields, targets, max_rank)
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from None
    try:
        shapes = adapter_shapes(model, config)["layers"]
        _check_tensors(stored, shapes, known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    layers = tuple(
        {target: _read_pair(path, stored, named[target]) for target in targets} for named in known
    )
    return Adapter(config=config, layers=layers)


def _modules_of(adapter: Adapter, model: Model | None) -> tuple[Modules, bool]:
    """The modules of an adapter's targets, and whether these are our decoder's."""
    targets = adapter.config.targets
    if _are_ours(targets):
        known, is_ours = decoder_modules(len(adapter.layers)), True
    elif model is None:
        raise ValueError(
            f"the adapter's targets are a definition's, such as {targets[0]}: give "
            "save_adapter(..., model=...), which knows their names in files"
        )
    else:
        check_adapter(adapter, model)
        known, is_ours = adapted_modules(model), False
    return [{target: named[target] for target in targets} for named in known], is_ours


def _are_ours(targets: tuple[str, ...]) -> bool:
    return all(target in LORA_TARGETS for target in targets)


def _read_config(path: Path) -> dict[str, Any]:
    if path.is_file() and path.stat().st_size > _MAX_CONFIG_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, over {_MAX_CONFIG_BYTES}: it is no adapter's "
            "configuration"
        )
    fields = read_json(path)
    if fields.get("peft_type") != "LORA":
        raise ValueError(
            f"{path}: peft_type {fields.get('peft_type')!r} is not supported: only LORA is"
        )
    for name, value in fields.items():
        known = name in _BOOKKEEPING or name in _READ or (name, value) == ("bias", "none")
        if not known and value not in (None, False, {}, []):
            raise ValueError(
                f"{path}: {name} = {value!r} is not supported, and leaving it out would change the "
                "result: only plain LoRA of linear layers is"
            )
    if fields.get("init_lora_weights") not in _INITS:
        raise ValueError(
            f"{path}: init_lora_weights = {fields['init_lora_weights']!r} is not supported, as it "
            "also changes the base's weights: convert the adapter to plain LoRA with peft's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    return fields


def _read_tensors(directory: Path) -> dict[str, StoredTensor]:
    if (directory / WEIGHTS).is_file():
        return file_tensors(directory / WEIGHTS)
    pickles = sorted(entry.name for entry in directory.glob("*.bin"))
    if pickles:
        raise ValueError(
            f"{directory} has no {WEIGHTS}; {pickles[0]} is there, but pickle files can run code "
            "and are never read: save the adapter again with safetensors"
        )
    raise ValueError(f"{directory / WEIGHTS} does not exist: {directory} is no complete adapter")


def _lora_config(
    fields: Mapping[str, Any], targets: tuple[str, ...], max_rank: int | None
) -> LoraConfig:
    rank, alpha = fields.get("r"), fields.get("lora_alpha")
    use_rslora = fields.get("use_rslora") or False
    if isinstance(rank, bool) or not isinstance(rank, int):
        raise ValueError(f"r must be a whole number, got {rank!r}")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha must be a number, got {alpha!r}")
    if not isinstance(use_rslora, bool):
        raise ValueError(f"use_rslora must be true or false, got {use_rslora!r}")
    if max_rank is not None and rank > max_rank:
        raise ValueError(f"r is {rank}, and at most {max_rank} is allowed here: raise that limit")
    return LoraConfig(rank=rank, alpha=float(alpha), targets=targets, use_rslora=use_rslora)


def _check_layout(fields: Mapping[str, Any], targets: tuple[str, ...]) -> None:
    """How the base's weights lie is a definition's own affair, and does not change its adapters."""
    if fields.get("fan_in_fan_out") not in (None, False) and _are_ours(targets):
        raise ValueError(
            f"fan_in_fan_out = {fields['fan_in_fan_out']!r} is not supported: the model's weights "
            "are [out, in]"
        )


def _check_target_modules(named: Any, targets: tuple[str, ...], modules: Modules) -> None:
    """What the configuration names, by the ends of its path, must be what the file holds."""
    if named == "all-linear":
        return
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ValueError(
            f"target_modules must be a list of names or all-linear, got {named!r}: patterns are "
            "not supported"
        )
    known = {module: target for layer in modules for target, module in layer.items()}
    if len(named) > len(known):
        raise ValueError(
            f"target_modules has {len(named)} names, and the model {len(known)} linear weights"
        )
    held = {module for module, target in known.items() if target in targets}
    lacking = set(held)
    for each in named:
        meant = [module for module in known if f".{module}".endswith(f".{each}")]
        if not meant:
            raise ValueError(
                f"target_modules has {each!r}, which can't be adapted here: only "
                f"{', '.join(last_names(modules))} can"
            )
        if held.isdisjoint(meant):
            raise ValueError(f"target_modules has {each!r}, of which {WEIGHTS} holds no tensor")
        empty = [module for module in meant if module not in held]
        if empty:
            raise ValueError(
                f"target_modules has {each!r}, and {WEIGHTS} holds no tensor of {empty[0]}"
            )
        lacking.difference_update(meant)
    if lacking:
        raise ValueError(f"{WEIGHTS} holds tensors of {min(lacking)}, which target_modules lacks")


def _check_tensors(stored: Mapping[str, StoredTensor], shapes: Any, modules: Modules) -> None:
    left = dict(stored)
    for layer, named in zip(shapes, modules, strict=True):
        for target, parts in layer.items():
            for part, tensor in tensor_names(named[target]).items():
                if tensor not in left:
                    raise ValueError(
                        f"tensor {tensor} is missing: every layer of the model must have it"
                    )
                found, needed = left.pop(tensor).shape, parts[part][::-1]
                if found != needed:
                    raise ValueError(
                        f"tensor {tensor} has shape {list(found)}, but the model and the adapter's "
                        f"rank need {list(needed)}: they do not belong together"
                    )
    if not left:
        return
    num_layers = f"this model's {len(shapes)} layers"
    place = num_layers if _are_ours(tuple(modules[0])) else "this definition, as lora_targets lists"
    raise ValueError(
        f"tensor {min(left)} has no place: only LoRA of the layers' linear weights is supported, "
        f"of {place}"
    )


def _read_pair(
    path: Path, stored: Mapping[str, StoredTensor], module: str
) -> dict[str, np.ndarray]:
    pair = {}
    for part, name in tensor_names(module).items():
        tensor = stored[name]
        values = tensor.read(0, tensor.shape[0]).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{path}: tensor {name} has values that are not finite")
        pair[part] = np.ascontiguousarray(values.T)
    return pair
