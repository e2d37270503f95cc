"""Reads and writes the fields of config.json that families with latent attention share.

Deliberately does not know any family, nor experts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.families import hf
from flaxen.families.hf_rope import rope_config
from flaxen.families.hf_values import flag, require_present, whole
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.latent_attention import LatentAttention
from flaxen.models.layers.norm import Norm
from flaxen.models.rope_config import RopeConfig

_NORM = Norm(eps=1e-6)  # of the latents, whatever rms_norm_eps says


def latent_config(
    fields: Mapping[str, Any], *, interleaved: bool = True, **shared: Any
) -> DecoderConfig:
    """The decoder's configuration with latent attention in all layers.

    Args:
      fields: of config.json.
      interleaved: whether rope rotates neighbours.
      shared: as in `hf.decoder_config`.

    Raises:
      ValueError: a field is missing or not supported.
    """
    require_present(fields, "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    rope_dim = whole(fields, "qk_rope_head_dim")
    config = hf.decoder_config({**fields, "head_dim": rope_dim}, **shared)
    num_heads = whole(fields, "num_attention_heads")
    if whole(fields, "num_key_value_heads", default=num_heads) != num_heads:
        raise ValueError(
            f"num_key_value_heads = {fields['num_key_value_heads']} is not supported: latent "
            f"attention makes keys and values of each of its {num_heads} query heads, so the two "
            "numbers are equal"
        )
    rope = replace(rope_config({**fields, "head_dim": rope_dim}), interleaved=interleaved)
    nope_dim = whole(fields, "qk_nope_head_dim")
    has_rank = fields.get("q_lora_rank") is not None
    mixer = LatentAttention(
        num_heads=num_heads,
        q_rank=whole(fields, "q_lora_rank") if has_rank else None,
        kv_rank=whole(fields, "kv_lora_rank"),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=whole(fields, "v_head_dim"),
        rope=rope,
        latent_norm=_NORM,
        scale=_scale(rope, nope_dim + rope_dim),
        has_biases=flag(fields, "attention_bias"),
    )
    return config.with_layers(lambda _, layer: replace(layer, mixer=mixer))


def latent_fields(config: DecoderConfig) -> dict[str, Any]:
    """The inverse, with all fields that `hf.decoder_fields` writes."""
    mixer = hf.first(config, LatentAttention)
    plain = Attention(
        num_heads=mixer.num_heads,
        num_kv_heads=mixer.num_heads,
        head_dim=mixer.rope_dim,
        rope=replace(mixer.rope, interleaved=False),
    )
    return {
        **hf.decoder_fields(config.with_layers(lambda _, layer: replace(layer, mixer=plain))),
        "q_lora_rank": mixer.q_rank,
        "kv_lora_rank": mixer.kv_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "attention_bias": mixer.has_biases,
    }


def _scale(rope: RopeConfig, head_dim: int) -> float | None:
    """The factor on scores: where yarn stretches the context, it grows with the factor."""
    if rope.kind != "yarn" or not rope.mscale_all_dim or rope.factor <= 1:
        return None
    mscale = 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0
    return mscale * mscale / math.sqrt(head_dim)
