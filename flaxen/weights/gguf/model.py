"""Converts GGUF metadata to the fields of a Hugging Face config.json.

An unknown metadata key of the architecture is refused, because GGUF files contain such keys only if
they matter. Deliberately does not know families, which read the fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxen.families import Family, find_gguf_family
from flaxen.families.rules import Rules, with_rules
from flaxen.models.rope import rope_frequencies
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.gguf.reader import GgufFile

ROPE_FACTORS = "rope_freqs.weight"

FIELDS: Mapping[str, str] = {  # metadata key, after the architecture -> config.json field
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "context_length": "max_position_embeddings",
    "rope.freq_base": "rope_theta",
}
_LAYER_NORM = "attention.layer_norm_epsilon"
_RMS_NORM = "attention.layer_norm_rms_epsilon"
_PARTIAL = "rope.dimension_count"  # the numbers of a head that are rotated
_PATTERN = "attention.sliding_window_pattern"  # a list, or the number of layers that repeat
_WHOLE = ("block_count", "attention.key_length", _PARTIAL)
_READ_APART = {
    "attention.value_length", _PARTIAL, _PATTERN, "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow", "rope.scale_linear",
}  # fmt: skip
_HARMLESS: Mapping[str, tuple[Any, ...]] = {  # fields, with values that have no effect
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "attention.causal": (True,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "nextn_predict_layers": (0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
_FLAGS: Mapping[str, tuple[str, ...]] = {  # fields, with the ends of names of tensors
    "attention_bias": ("attn_q.bias", "attn_qkv.bias"),
    "attention_out_bias": ("attn_output.bias",),
    "mlp_bias": ("ffn_gate.bias",),
}


def family_of(file: GgufFile) -> Family:
    """The family of a file.

    Raises:
      ValueError: the file names none that is known, or is one part of several.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise ValueError(f"the file's metadata has no general.architecture (got {name!r})")
    parts = file.metadata.get("split.count", 0)
    if parts not in (0, 1):
        raise ValueError(
            f"the file is one of {parts!r} parts: merge them with `llama-gguf-split --merge` first"
        )
    return find_gguf_family(name, _own_keys(file))


def _own_keys(file: GgufFile) -> dict[str, Any]:
    """The metadata of the file's architecture, by what follows its name."""
    prefix = f"{file.metadata['general.architecture']}."
    return {k[len(prefix) :]: v for k, v in file.metadata.items() if k.startswith(prefix)}


def rules_of(file: GgufFile, family: Family) -> Rules:
    """The family's rules, as converters of the file's age and options keep to them."""
    rules, ends = family.gguf_rules, _ends(file)
    for end, others in family.gguf_variants.items():
        if end in ends:
            rules = with_rules(rules, *others)
    return rules


def _ends(file: GgufFile) -> set[str]:
    """What follows the layer's number in the names of the layers' tensors."""
    names = (each for each in file.tensors if each.startswith("blk."))
    return {name.removeprefix("blk.").partition(".")[2] for name in names}


def config_fields(file: GgufFile, family: Family) -> dict[str, Any]:
    """The fields of a config.json with the meaning of the metadata.

    Args:
      file: the file.
      family: its family.

    Raises:
      ValueError: a metadata key or value is not supported; the message names it.
    """
    prefix, own = f"{file.metadata['general.architecture']}.", _own_keys(file)
    known = {**FIELDS, **family.gguf_fields}
    for key, value in own.items():
        if key not in known and key not in _READ_APART and value not in _HARMLESS.get(key, ()):
            raise ValueError(
                f"metadata {prefix}{key} = {value!r} is not supported, and leaving it out would "
                "change the result"
            )
    values = {
        key: value if key in family.gguf_lists else _one_for_all(prefix + key, value)
        for key, value in own.items()
        if key in known
    }
    _check_numbers(prefix, own, values, family)
    fields: dict[str, Any] = {known[key]: value for key, value in values.items()}
    if "token_embd.weight" in file.tensors:
        fields.setdefault("vocab_size", file.tensors["token_embd.weight"].shape[0])
    fields[known["block_count"]] -= _num_extra_layers(prefix, values)
    num_heads = values.get("attention.head_count")
    if isinstance(num_heads, int | float) and num_heads:
        fields.setdefault("num_key_value_heads", num_heads)
        fields.setdefault("head_dim", values["embedding_length"] // num_heads)
        _check_heads(prefix, own, fields, family)
    fields |= _windows(prefix, own, fields, family)
    fields["tie_word_embeddings"] = "output.weight" not in file.tensors
    ends = _ends(file)
    fields |= {field: bool(ends & set(names)) for field, names in _FLAGS.items()}
    fields |= {field: end in ends for field, end in family.gguf_flags.items()}
    fields["rope_scaling"] = _rope_scaling(file, prefix, own, fields)
    return {**fields, **family.gguf_implied(fields)}


def _check_numbers(
    prefix: str, own: Mapping[str, Any], values: Mapping[str, Any], family: Family
) -> None:
    """Refuses values that this module computes with, if they are not numbers above 0.

    The others are checked as the fields of config.json that they become.
    """
    norm = _LAYER_NORM if _LAYER_NORM in family.gguf_fields else _RMS_NORM
    for key in (*family.gguf_required, norm):
        value = values.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ValueError(f"metadata {prefix}{key} must be a number above 0, got {value!r}")
    for key in _WHOLE:
        value = own.get(key, 1)
        if type(value) is not int or value < 1:
            raise ValueError(
                f"metadata {prefix}{key} must be a whole number above 0, got {value!r}"
            )


def _num_extra_layers(prefix: str, values: Mapping[str, Any]) -> int:
    """How many of the layers only predict further tokens."""
    count, all_layers = values.get("nextn_predict_layers", 0), values["block_count"]
    if type(count) is not int or not 0 <= count < all_layers:
        raise ValueError(
            f"metadata {prefix}nextn_predict_layers must be a whole number below block_count, "
            f"{all_layers}, got {count!r}"
        )
    return count


def _check_heads(
    prefix: str, own: Mapping[str, Any], fields: dict[str, Any], family: Family
) -> None:
    """Makes a share of the rotated numbers, if the family has that, and refuses uneven heads."""
    head_dim = fields["head_dim"]
    if family.gguf_share is not None:
        fields[family.gguf_share] = own.get(_PARTIAL, head_dim) / head_dim
    for key in ("attention.value_length", *([] if family.gguf_share else [_PARTIAL])):
        if key not in family.gguf_fields and own.get(key, head_dim) != head_dim:
            raise ValueError(
                f"metadata {prefix}{key} = {own[key]!r} is not supported: it must be the head "
                f"size, {head_dim}"
            )


def _windows(
    prefix: str, own: Mapping[str, Any], fields: Mapping[str, Any], family: Family
) -> dict[str, Any]:
    """The fields of sliding windows, where the metadata or the architecture says on which layers.

    A window of 0 tokens is none.
    """
    pattern, window = own.get(_PATTERN), fields.get("sliding_window") or None
    if isinstance(pattern, list) and "attention.sliding_window" in family.gguf_fields:
        kinds = ["sliding_attention" if each else "full_attention" for each in pattern]
        return {"sliding_window": window, "layer_types": kinds}
    if pattern is not None:
        raise ValueError(
            f"metadata {prefix}{_PATTERN} = {pattern!r} is not supported: only a list with a "
            "truth value for each layer is, and only of families with such windows"
        )
    says_where = prefix == "llama." or "attention.sliding_window" in family.gguf_fields
    if window is not None and not says_where:
        raise ValueError(
            f"metadata {prefix}attention.sliding_window = {window!r} is not supported: it does not "
            "say on which layers"
        )
    return {"sliding_window": window}


def _one_for_all(key: str, value: Any) -> Any:
    """Replaces a list of equal values for each layer by the value."""
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"metadata {key} differs from layer to layer, which is not supported")
    return value[0]


def _rope_scaling(
    file: GgufFile, prefix: str, own: Mapping[str, Any], fields: Mapping[str, Any]
) -> dict[str, Any] | None:
    kind = own.get("rope.scaling.type", "none")
    factor = own.get("rope.scaling.factor", own.get("rope.scale_linear", 1.0))
    if ROPE_FACTORS in file.tensors:
        if kind != "none":
            raise ValueError(
                f"metadata {prefix}rope.scaling.type = {kind!r} together with the tensor "
                f"{ROPE_FACTORS} is not supported"
            )
        return _from_factors(file, fields)
    if kind == "none" and "rope.scale_linear" not in own:
        return None
    if kind in ("none", "linear"):
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": own.get("rope.scaling.original_context_length"),
            "beta_fast": own.get("rope.scaling.yarn_beta_fast"),
            "beta_slow": own.get("rope.scaling.yarn_beta_slow"),
        }
    raise ValueError(
        f"metadata {prefix}rope.scaling.type = {kind!r} is not supported: none, linear and yarn are"
    )


def _from_factors(file: GgufFile, fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Llama 3's rope scaling, from the table of divisors that GGUF files have instead of the rule.

    The longest wavelength is stretched by the whole factor. The rest of the rule is that of every
    published Llama 3, or of Llama 4 Scout, and is checked against the table.
    """
    stored = file.tensors[ROPE_FACTORS]
    divisors = np.asarray(stored.read(0, stored.shape[0]), np.float32)
    factor = float(divisors.max())
    if np.all(divisors == 1):
        return None
    theta, head_dim = fields.get("rope_theta", 10_000.0), fields["head_dim"]
    plain, _ = rope_frequencies(RopeConfig(theta=theta), head_dim)
    for high in (4.0, 1.0):
        rope = RopeConfig(
            kind="llama3",
            theta=theta,
            factor=factor,
            original_max_position=8192,
            low_freq_factor=1.0,
            high_freq_factor=high,
        )
        scaled, _ = rope_frequencies(rope, head_dim)
        if divisors.shape == plain.shape and np.allclose(plain / scaled, divisors, rtol=1e-4):
            return {
                "rope_type": rope.kind,
                "factor": rope.factor,
                "original_max_position_embeddings": rope.original_max_position,
                "low_freq_factor": rope.low_freq_factor,
                "high_freq_factor": rope.high_freq_factor,
            }
    raise ValueError(
        f"the tensor {ROPE_FACTORS} does not hold Llama 3's scaling for {factor:g} times 8192 "
        "tokens: other tables are not supported"
    )
