"""The Llama family: Llama 1 to 3.3, SmolLM2, TinyLlama and what else shares the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.models.config import DecoderConfig
from flaxen.models.families import hf, tensors
from flaxen.models.families.family import Family


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    biases: tuple[str, ...] = ()
    if hf.flag(fields, "attention_bias"):
        biases += ("wq", "wk", "wv", "wo")
    if hf.flag(fields, "mlp_bias"):
        biases += ("w_gate", "w_up", "w_down")
    return hf.decoder_config(
        fields, biases=biases, refused=("sliding_window", "use_sliding_window", "layer_types")
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The inverse: the fields of config.json."""
    return {
        **hf.decoder_fields(config),
        "attention_bias": "wq" in config.biases,
        "mlp_bias": "w_up" in config.biases,
    }


FAMILY = Family(
    architecture="LlamaForCausalLM",
    model_type="llama",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    hf_rules=tensors.HF,
    gguf_architecture="llama",
    gguf_rules=tensors.GGUF_INTERLEAVED,
    gguf_biases=("wq", "wk", "wv", "wo", "w_gate", "w_up", "w_down"),
)
