"""A decoder's configuration as the fields of a Hugging Face config.json: the way back.

The fields are read again by the family, so that what it can't express is refused and never
written wrong. Deliberately does not know files, tokenizers or weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxen.models.config import DecoderConfig, RopeConfig
from flaxen.models.families import find_family

_ATTENTION = ("wq", "wk", "wv", "wo")
_MLP = ("w_gate", "w_up", "w_down")
_ROPE_FIELDS: Mapping[str, tuple[str, ...]] = {  # RopeConfig's, which have Hugging Face's names
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
             "truncate"),
}  # fmt: skip


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The fields of config.json, of the plainest architecture that has the model's features.

    Raises:
      ValueError: no architecture that we know has all of them.
    """
    architecture = _architecture(config)
    family = find_family(architecture)
    fields = {
        "architectures": [architecture],
        "model_type": architecture.removesuffix("ForCausalLM").lower(),
        **_shared_fields(config),
        **_own_fields(architecture, config),
    }
    try:
        again = family.config_from_hf(fields)
    except ValueError as error:
        raise ValueError(f"the model does not fit into {architecture}: {error}") from None
    # Some fields are of no account for some kinds of rope, and are not written.
    if replace(again, rope=config.rope) != config or config.rope.kind != again.rope.kind:
        differing = [name for name in vars(config) if vars(config)[name] != vars(again)[name]]
        raise ValueError(
            f"the model does not fit into {architecture}, which can't say its "
            f"{', '.join(differing)}: no known Hugging Face architecture has these features"
        )
    return fields


def _architecture(config: DecoderConfig) -> str:
    if config.qk_norm:
        return "Qwen3ForCausalLM"
    if set(config.biases) == {"wq", "wk", "wv"}:
        return "Qwen2ForCausalLM"
    windows = set(config.windows)
    return "LlamaForCausalLM" if windows == {None} else "MistralForCausalLM"


def _shared_fields(config: DecoderConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_position,
        "tie_word_embeddings": config.tied_embeddings,
        "rope_theta": config.rope.theta,
    }
    scaling = _rope_scaling(config.rope)
    return {**fields, "rope_scaling": scaling} if scaling else fields


def _rope_scaling(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.kind == "default":
        return None
    fields: dict[str, Any] = {"rope_type": rope.kind}
    for name in _ROPE_FIELDS[rope.kind]:
        value = getattr(rope, name)
        if value is not None and not (name.startswith("mscale") and value == 0):
            fields[name] = value
    if rope.original_max_position:
        fields["original_max_position_embeddings"] = rope.original_max_position
    return fields


def _own_fields(architecture: str, config: DecoderConfig) -> dict[str, Any]:
    biases = set(config.biases)
    if architecture == "LlamaForCausalLM":
        return {
            "attention_bias": biases >= set(_ATTENTION),
            "mlp_bias": biases >= set(_MLP),
        }
    if architecture == "MistralForCausalLM":
        return {"sliding_window": config.windows[0]}
    fields: dict[str, Any] = {}
    if architecture == "Qwen3ForCausalLM":
        fields["attention_bias"] = biases >= set(_ATTENTION)
    windows = [window for window in config.windows if window is not None]
    if not windows:
        return {**fields, "use_sliding_window": False}
    return {
        **fields,
        "use_sliding_window": True,
        "sliding_window": windows[0],
        "max_window_layers": next(i for i, each in enumerate(config.windows) if each is not None),
        "layer_types": [
            "full_attention" if each is None else "sliding_attention" for each in config.windows
        ],
    }
