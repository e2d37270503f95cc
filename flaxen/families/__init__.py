"""The model families, by the names that a checkpoint gives: one file each, about 40 lines.

To add one: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flaxen.families import (
    deepseek_v2,
    deepseek_v3,
    glm4_moe,
    glm4_moe_lite,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite_hybrid,
    granite_moe,
    lfm2,
    llama,
    llama4,
    mamba2,
    ministral,
    ministral3,
    mistral,
    mixtral,
    olmoe,
    phi,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    seed_oss,
    starcoder2,
)
from flaxen.families.family import Family, hf_fields

__all__ = ["FAMILIES", "Family", "UnknownFamilyError", "find_family", "hf_fields"]

_ALL = (
    deepseek_v2.FAMILY,
    deepseek_v3.FAMILY,
    gpt2.FAMILY,
    gpt_neox.FAMILY,
    glm4_moe.FAMILY,
    glm4_moe_lite.FAMILY,
    gpt_oss.FAMILY,
    granite_hybrid.FAMILY,
    granite_moe.FAMILY,
    granite_moe.SHARED,
    lfm2.FAMILY,
    llama4.FAMILY,
    llama.FAMILY,
    mamba2.FAMILY,
    ministral.FAMILY,
    ministral3.FAMILY,
    mistral.FAMILY,
    mixtral.FAMILY,
    olmoe.FAMILY,
    phi.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    seed_oss.FAMILY,
    starcoder2.FAMILY,
)

FAMILIES: Mapping[str, Family] = {
    # `architectures` of a Hugging Face config.json
    **{family.architecture: family for family in _ALL},
    # The same, where only the model under the head was saved (weights/huggingface/tables.py).
    **{re.sub("ForCausalLM|LMHeadModel", "Model", each.architecture): each for each in _ALL},
    # `general.architecture` of a GGUF file, and `model_type` of a config.json
    **{family.model_type: family for family in _ALL},
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
