"""PEFT's names of the modules that adapters target.

Deliberately does not know files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from flaxen.models.adapters import LORA_TARGETS, target_paths
from flaxen.models.families.rules import tensor_of
from flaxen.models.families.tensors import HF
from flaxen.models.model import Model

# For each layer: target -> name of the module.
Modules = Sequence[Mapping[str, str]]

# In all families these modules stand alone: tests/weights/adapters/test_peft.py.
_DECODER = {name: tensor_of(HF, name).removesuffix(".weight") for name in LORA_TARGETS}
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
        return decoder_modules(len(model.param_specs["layers"]))
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


def decoder_modules(num_layers: int) -> Modules:
    """The modules of our decoder, with Hugging Face's names."""
    return tuple(
        {target: name.format(layer=index) for target, name in _DECODER.items()}
        for index in range(num_layers)
    )


def tensor_names(module: str) -> dict[str, str]:
    """The file's names of a module's a and b, which are transposed there."""
    module = _PREFIX + module
    return {"a": f"{module}.lora_A.weight", "b": f"{module}.lora_B.weight"}


def last_names(modules: Modules) -> list[str]:
    """The last parts of the modules' names, each once, for messages."""
    return sorted({name.split(".")[-1] for layer in modules for name in layer.values()})
