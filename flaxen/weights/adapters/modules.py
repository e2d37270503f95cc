"""PEFT's names of the modules that adapters target, and a target's place in its module.

Deliberately does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np

from flaxen.families.rules import Interleave, Split, TensorRule, tensor_of
from flaxen.families.tensors import HF
from flaxen.models.adapters import LORA_TARGETS, matrices, matrix_shape, target_paths
from flaxen.models.model import Model
from flaxen.models.param_spec import ParamSpec
from flaxen.tensors.views import in_memory
from flaxen.weights.rules import read_tensors

# For each layer: target -> name of the module. Targets that a file has fused share a module.
Modules = Sequence[Mapping[str, str]]

_PREFIX = "base_model.model."
_WEIGHT = ".weight"  # the weight's name in PyTorch modules


def adapted_modules(model: Model) -> Modules:
    """The names of all modules of a model that can be adapted.

    A definition is one layer. Its modules are the paths of its parameters, joined by dots, without
    the trained collection and without PyTorch's `.weight`: for classes of transformers these are
    the names of the modules.

    Raises:
      ValueError: two parameters of a definition get the same name.
    """
    if model.has_layers:
        return [
            {target: name for target, (name, _) in layer.items()}
            for layer in decoder_modules(model)
        ]
    start = 0 if model.trained is None else 1
    found = {
        target: jax.tree_util.keystr(path[start:], simple=True, separator=".").removesuffix(_WEIGHT)
        for target, path in target_paths(model).items()
    }
    if len(set(found.values())) < len(found):
        (first, *_) = sorted(name for name in found.values() if [*found.values()].count(name) > 1)
        raise ValueError(
            f"two parameters of the definition are called {first!r} where their paths are joined "
            "by dots, as files of adapters have it: rename one"
        )
    return (found,)


def usual_modules(num_layers: int) -> Modules:
    """The modules of a decoder's LORA_TARGETS with transformers' usual names."""
    names = {target: tensor_of(HF, target).removesuffix(_WEIGHT) for target in LORA_TARGETS}
    return [
        {target: name.format(layer=number) for target, name in names.items()}
        for number in range(num_layers)
    ]


def file_targets(model: Model) -> tuple[str, ...]:
    """All targets of a model whose adapters files can hold, each once."""
    return tuple(dict.fromkeys(target for layer in adapted_modules(model) for target in layer))


class Rows(NamedTuple):
    """Where the outputs of a target are among those of its module."""

    rows: np.ndarray  # of the module's outputs, in the target's order
    num_rows: int  # of the module


def decoder_modules(model: Model) -> list[dict[str, tuple[str, Rows]]]:
    """For each layer of our decoder: target -> its module and its place in there.

    A matrix that files hold in another form than as a part of one matrix has no module, and so no
    adapters in files.
    """
    return [
        {
            target: found
            for rule in model.module_rules or HF
            for target, found in _of_rule(rule, layer, number, model.sizes(number))
        }
        for number, layer in enumerate(matrices(model))
    ]


def places_in_modules(model: Model | None, modules: Modules) -> Sequence[Mapping[str, Rows]]:
    """For each layer: where each target's outputs are in its module.

    A target that is alone in its module has no place: any of a definition, or of a decoder with the
    usual names of modules, for which there is no model.
    """
    if model is None or not model.has_layers:
        return [{} for _ in modules]
    return [
        {target: place for target, (_, place) in layer.items()} for layer in decoder_modules(model)
    ]


def _of_rule(
    rule: TensorRule, layer: Mapping[str, ParamSpec], number: int, sizes: Mapping[str, int]
) -> Iterator[tuple[str, tuple[str, Rows]]]:
    """The targets of a rule in a layer, each with its module and place."""
    is_part = all(isinstance(step, Split | Interleave) for step in rule.steps)
    if not is_part or len(rule.tensors) > 1 or any(name not in layer for name in rule.params):
        return
    name = rule.tensors[0].format(layer=number, expert="").removesuffix(_WEIGHT)
    num_rows = sum(matrix_shape(layer[target])[1] for target in rule.params)
    numbers = in_memory(name, np.arange(num_rows)[:, None])
    # Adapters are [out, rank] whatever the order of the weight's axes in the file.
    steps = [replace(step, axis=0) if isinstance(step, Split) else step for step in rule.steps]
    for target, part in zip(rule.params, read_tensors(steps, [numbers], sizes), strict=True):
        yield target, (name, Rows(part.read(0, part.shape[0])[:, 0], num_rows))


def tensor_names(module: str) -> dict[str, str]:
    """The file's names of a module's a and b, which are transposed there."""
    module = _PREFIX + module
    return {"a": f"{module}.lora_A.weight", "b": f"{module}.lora_B.weight"}


def last_names(modules: Modules) -> list[str]:
    """The last parts of the modules' names, each once, for messages."""
    return sorted({name.split(".")[-1] for layer in modules for name in layer.values()})
