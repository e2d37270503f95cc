"""The model families, by the name that a checkpoint gives: one file each, about 40 lines.

To add one: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from flaxen.models.families import llama, mistral, qwen2, qwen3
from flaxen.models.families.family import Family

__all__ = ["FAMILIES", "Family", "UnknownFamilyError", "find_family"]

FAMILIES: Mapping[str, Family] = {
    # `architectures` of a Hugging Face config.json
    "LlamaForCausalLM": llama.FAMILY,
    "MistralForCausalLM": mistral.FAMILY,
    "Qwen2ForCausalLM": qwen2.FAMILY,
    "Qwen3ForCausalLM": qwen3.FAMILY,
    # The same, where only the model under the head was saved (weights/huggingface/tables.py).
    "LlamaModel": llama.FAMILY,
    "MistralModel": mistral.FAMILY,
    "Qwen2Model": qwen2.FAMILY,
    "Qwen3Model": qwen3.FAMILY,
    # `general.architecture` of a GGUF file, and `model_type` of a config.json
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
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
