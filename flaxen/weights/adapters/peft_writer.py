"""Writes LoRA adapters as the peft library does, so that both it and flaxen read them.

Deliberately does not know training or serving.
https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.models.adapters import LORA_TARGETS
from flaxen.models.model import Model
from flaxen.weights.adapters.adapter import Adapter, check_adapter
from flaxen.weights.adapters.experts import apart, experts_of, modules_with_experts
from flaxen.weights.adapters.fused import is_alone, joined
from flaxen.weights.adapters.modules import (
    Modules,
    last_names,
    places_in_modules,
    tensor_names,
    usual_modules,
)
from flaxen.weights.atomic import new_directory
from flaxen.weights.safetensors_writer import write_arrays


def save_adapter(
    directory: Path, adapter: Adapter, base_name: str | None = None, *, model: Model | None = None
) -> None:
    """Writes an adapter's directory atomically; an adapter with the same name is replaced.

    Args:
      directory: the directory's name.
      adapter: the adapter, which is stored in float32.
      base_name: the name of the base model, for people and for peft.
      model: the adapted model; None is a decoder with the usual names of modules, each alone.

    Raises:
      ValueError: the directory has other files, the adapter is a definition's and `model` is
          missing, or files can't hold a target's adapter.
    """
    has_experts = any(pair["a"].ndim > 2 for layer in adapter.layers for pair in layer.values())
    if has_experts:
        if model is None:
            raise ValueError(
                "the adapter has experts: give save_adapter(..., model=...), which knows the "
                "names of their modules"
            )
        check_adapter(adapter, model)
        adapter = apart(adapter, model)
    config = adapter.config
    modules, is_ours = _modules_of(adapter, model)
    names = {name for layer in modules for name in layer.values()}
    short = last_names(modules)
    experts = [] if model is None else experts_of(model)
    is_plain = is_ours and not any(
        each.module.split(".")[-1] in short for layer in experts for each in layer.values()
    )
    tensors, ranks = _file_tensors(adapter, modules, model)
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.use_rslora,
        # Full names for a definition, and where experts have the same last part: it may also be
        # that of a module without an adapter.
        "target_modules": short if is_plain else sorted(names),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "lora_dropout": 0.0,
        # Targets that the module has fused have ranks of their own, which add up, and one scale.
        "rank_pattern": ranks,
        "alpha_pattern": {
            name: config.scale * (math.sqrt(rank) if config.use_rslora else rank)
            for name, rank in ranks.items()
        },
    }
    with new_directory(directory, replaces=(ADAPTER_CONFIG, ADAPTER_WEIGHTS)) as filling:
        text = json.dumps(fields, indent=2, sort_keys=True)
        (filling / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
        write_arrays(filling / ADAPTER_WEIGHTS, tensors, {"format": "pt"})


def _modules_of(adapter: Adapter, model: Model | None) -> tuple[Modules, bool]:
    """The modules of an adapter's targets, and whether they are our decoder's."""
    targets = adapter.config.targets
    known: Modules
    if model is None and all(target in LORA_TARGETS for target in targets):
        known, is_ours = usual_modules(len(adapter.layers)), True
    elif model is None:
        raise ValueError(
            f"the adapter's targets are a definition's, such as {targets[0]}: give "
            "save_adapter(..., model=...), which knows their names in files"
        )
    else:
        if not any(target in layer for layer in experts_of(model) for target in targets):
            check_adapter(adapter, model)  # otherwise it was checked before it was taken apart
        known, is_ours = modules_with_experts(model), model.has_layers
    for layer, named in zip(adapter.layers, known, strict=True):
        if lacking := [target for target in layer if target not in named]:
            raise ValueError(
                f"files of adapters can't hold one of {', '.join(lacking)}, which the model's "
                "files have in another form: leave it out of the targets"
            )
    layers = zip(adapter.layers, known, strict=True)
    return [{target: named[target] for target in layer} for layer, named in layers], is_ours


def _file_tensors(
    adapter: Adapter, modules: Modules, model: Model | None
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """The tensors of the file, and the rank of each module that joins several targets."""
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    places = places_in_modules(model, modules)
    for layer, named, place in zip(adapter.layers, modules, places, strict=True):
        for name in dict.fromkeys(named.values()):
            targets = [target for target in layer if named[target] == name]
            pair = layer[targets[0]]
            own = [place[target] for target in targets if target in place]
            if own and not is_alone(own):
                pair = joined([layer[target] for target in targets], own)
            if len(targets) > 1:
                ranks[name] = pair["a"].shape[1]
            for part, tensor in tensor_names(name).items():
                tensors[tensor] = np.asarray(pair[part]).T
    return tensors, ranks
