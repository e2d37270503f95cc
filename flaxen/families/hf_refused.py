"""Refuses fields of a Hugging Face config.json that would change the result and are not supported.

Deliberately does not know any family, nor what the fields mean.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Fields that change the result and that the decoder does not support, with their harmless values.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "quantization": (None,),
    "compression_config": (None,),
    "hidden_act": ("silu", None),
    "hidden_activation": ("silu", None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "dual_chunk_attention_config": (None,),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None, ()),
    "clip_qkv": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "logit_scale": (1, None),
    "is_causal": (True, None),
    "use_bidirectional_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
    "n_routed_experts": (0, None),
}


def check_refused(
    hf: Mapping[str, Any], reads: Collection[str] = (), refused: Collection[str] = ()
) -> None:
    """Refuses fields that would change the result and are not supported.

    Args:
      hf: the fields of config.json.
      reads: fields that the family reads itself, and that other families refuse.
      refused: fields of other families that must not be set here.

    Raises:
      ValueError: a field has a value that is not supported.
    """
    quantization = hf.get("quantization_config")
    if quantization is not None:
        method = (
            quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        )
        raise ValueError(
            f"quantization_config ({method!r}) is not supported: only float32, "
            "float16 and bfloat16 safetensors are read; use the checkpoint before quantization, or "
            "a GGUF file of it"
        )
    for name, harmless in _REFUSED.items():
        if name not in reads:
            _check_harmless(hf, name, harmless)
    for name in refused:
        _check_harmless(hf, name, (None, False))


def _check_harmless(hf: Mapping[str, Any], name: str, harmless: tuple[Any, ...]) -> None:
    value = hf.get(name)
    if isinstance(value, list):
        value = tuple(value)
    if value not in harmless:
        allowed = " or ".join(repr(v) for v in harmless if v is not None)
        raise ValueError(
            f"{name} = {value!r} is not supported, and leaving it out would change "
            f"the result{': only ' + allowed + ' is' if allowed else ''}"
        )
