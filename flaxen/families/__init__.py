"""The model families, by the names that a checkpoint gives: one file each, about 40 lines.

To add one: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from flaxen.families.family import Family, hf_fields

__all__ = [
    "FAMILIES",
    "GGUF_ARCHITECTURES",
    "Family",
    "UnknownFamilyError",
    "find_family",
    "find_gguf_family",
    "hf_fields",
]

# Every file beside this one that has values of Family is a family, or several.
_FILES = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
_ALL = [each for file in _FILES for each in vars(file).values() if isinstance(each, Family)]

FAMILIES: Mapping[str, Family] = {
    # `architectures` of a Hugging Face config.json
    **{family.architecture: family for family in _ALL},
    # The same, where only the model under the head was saved (weights/huggingface/tables.py).
    **{re.sub("ForCausalLM|LMHeadModel", "Model", each.architecture): each for each in _ALL},
    # `model_type` of a config.json
    **{family.model_type: family for family in _ALL},
}

GGUF_ARCHITECTURES: Mapping[str, tuple[Family, ...]] = {
    # `general.architecture` of a GGUF file -> the families that share it
    name: tuple(each for each in _ALL if name in (each.gguf_architecture, *each.gguf_aliases))
    for name in sorted({each.gguf_architecture for each in _ALL if each.gguf_architecture})
}


class UnknownFamilyError(ValueError):
    """The decoder has no such family."""


def find_family(architecture: str) -> Family:
    """The family of an architecture's name.

    Raises:
      UnknownFamilyError: it is not known; the message lists those that are.
    """
    if architecture not in FAMILIES:
        raise UnknownFamilyError(
            f"the architecture {architecture!r} is not supported. Known are: "
            f"{', '.join(FAMILIES)}. docs/how-to/add-a-model.md says how to add one"
        )
    return FAMILIES[architecture]


def find_gguf_family(architecture: str, keys: Mapping[str, Any]) -> Family:
    """The family of a GGUF file.

    Args:
      architecture: its `general.architecture`.
      keys: its metadata of that architecture, by what follows the name.

    Raises:
      UnknownFamilyError: its GGUF files are not read; the message lists those that are.
    """
    for family in GGUF_ARCHITECTURES.get(architecture, ()):
        if family.is_gguf(keys):
            return family
    raise UnknownFamilyError(
        f"GGUF files of the architecture {architecture!r} are not supported. Known are: "
        f"{', '.join(GGUF_ARCHITECTURES)}. Give the model's directory of safetensors, if flaxen "
        "knows its family: docs/models.md"
    )
