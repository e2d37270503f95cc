"""The Mistral family: Llama with one sliding window for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.models.config import DecoderConfig
from flaxen.models.families import hf
from flaxen.models.families.family import Family


def config_from_hf(fields: Mapping[str, Any]) -> DecoderConfig:
    """The decoder's configuration from config.json.

    Raises:
      ValueError: a field is missing or not supported.
    """
    # Both have had defaults other than "none" in transformers, so a guess could be wrong.
    hf.require_present(fields, "sliding_window", "num_key_value_heads")
    window: int | None = None
    if fields["sliding_window"] is not None:
        window = hf.whole(fields, "sliding_window")
    return hf.decoder_config(
        fields,
        windows=(window,) * hf.num_layers(fields),
        refused=("attention_bias", "mlp_bias", "layer_types", "use_sliding_window"),
    )


FAMILY = Family(
    config_from_hf=config_from_hf,
    tensor_names=hf.TENSOR_NAMES,
    gguf_interleaved_qk=True,  # in GGUF the family goes by the name of llama
)
