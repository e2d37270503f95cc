"""The model families, by the names that a checkpoint gives: one file each, about 40 lines.

To add one: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flaxen.families import (
    cohere,
    deepseek_v2,
    deepseek_v3,
    exaone4,
    gemma,
    gemma2,
    gemma3,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    granite_hybrid,
    granite_moe,
    lfm2,
    lfm2_moe,
    llama,
    llama4,
    mamba2,
    ministral,
    ministral3,
    mistral,
    mixtral,
    olmo2,
    olmoe,
    phi,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    qwen3_next,
    seed_oss,
    smollm3,
    starcoder2,
)
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

_ALL = (
    cohere.COHERE,
    cohere.COHERE2,
    deepseek_v2.FAMILY,
    deepseek_v3.FAMILY,
    exaone4.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    glm4.GLM,
    glm4.GLM4,
    glm4_moe.FAMILY,
    glm4_moe_lite.FAMILY,
    gpt2.FAMILY,
    gpt_neox.FAMILY,
    gpt_oss.FAMILY,
    granite.FAMILY,
    granite_hybrid.FAMILY,
    granite_moe.FAMILY,
    granite_moe.SHARED,
    lfm2.FAMILY,
    lfm2_moe.FAMILY,
    llama.FAMILY,
    llama4.FAMILY,
    mamba2.FAMILY,
    ministral.FAMILY,
    ministral3.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    olmo2.OLMO2,
    olmo2.OLMO3,
    olmoe.FAMILY,
    phi.FAMILY,
    phi3.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    qwen3_next.FAMILY,
    seed_oss.FAMILY,
    smollm3.FAMILY,
    starcoder2.FAMILY,
)

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
