"""config.json to DecoderConfig: each field honoured in each spelling, or refused by name."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from flaxen.families import find_family
from flaxen.models.decoder import decoder
from flaxen.models.rope import rope_frequencies
from flaxen.models.rope_config import RopeConfig
from tests.models.features import Features, features

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}


def read(name: str, fields: dict[str, Any]) -> Features:
    return features(find_family(f"{name}ForCausalLM").config_from_hf(fields))


LLAMA, MISTRAL, QWEN2, QWEN3, SEED_OSS = (
    functools.partial(read, name) for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "SeedOss")
)
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def test_sizes_and_defaults() -> None:
    config = LLAMA(SIZES)
    assert (config.vocab_size, config.model_dim, config.mlp_dim) == (128, 32, 48)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (3, 4, 2)
    assert (config.head_dim, config.max_position) == (8, 64)
    assert config.norm_eps == 1e-6
    assert config.rope == RopeConfig(theta=10_000)
    assert config.windows == (None, None, None)
    assert (config.biases, config.qk_norm, config.tied_embeddings) == ((), False, False)


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"head_dim": 16}, "head_dim", 16),
        ({"head_dim": None}, "head_dim", 8),
        ({"num_key_value_heads": None}, "num_kv_heads", 4),
        ({"rms_norm_eps": 1e-5}, "norm_eps", 1e-5),
        ({"tie_word_embeddings": True}, "tied_embeddings", True),
        ({"attention_bias": True}, "biases", ("wq", "wk", "wv", "wo")),
        ({"mlp_bias": True}, "biases", ("w_gate", "w_up", "w_down")),
        ({"pretraining_tp": 2, "torch_dtype": "bfloat16", "use_cache": True}, "biases", ()),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "qk_norm", False),
    ],
)
def test_fields_that_are_honoured(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(LLAMA({**SIZES, **fields}), name) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        {"rope_theta": 1.0, "rope_parameters": {"type": "linear", "factor": 2, "rope_theta": 5e5}},
    ],
)
def test_rope_in_every_spelling(fields: dict[str, Any]) -> None:
    assert LLAMA({**SIZES, **fields}).rope == RopeConfig(kind="linear", theta=5e5, factor=2.0)


def test_llama3_rope_in_both_spellings() -> None:
    expected = RopeConfig(
        kind="llama3", theta=5e5, factor=8, original_max_position=32,
        low_freq_factor=1, high_freq_factor=4,
    )  # fmt: skip
    old = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}
    new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}}
    assert LLAMA({**SIZES, **old}).rope == LLAMA({**SIZES, **new}).rope == expected


def test_yarn_rope_with_every_field() -> None:
    fields = {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16,
        "beta_slow": 2, "attention_factor": 1.5, "mscale": 0.5, "mscale_all_dim": 0.25,
        "truncate": False, "finetuned": True,
    }  # fmt: skip
    assert LLAMA({**SIZES, "rope_scaling": fields}).rope == RopeConfig(
        kind="yarn", factor=4, original_max_position=32, beta_fast=16, beta_slow=2,
        attention_factor=1.5, mscale=0.5, mscale_all_dim=0.25, truncate=False,
    )  # fmt: skip


def test_yarn_takes_its_factor_from_the_lengths_and_the_length_from_the_top_level() -> None:
    fields = {"type": "yarn", "factor": None, "original_max_position_embeddings": 1}
    rope = LLAMA({**SIZES, "original_max_position_embeddings": 16, "rope_scaling": fields}).rope
    assert (rope.factor, rope.original_max_position) == (4, 16)
    rope = LLAMA({**SIZES, "rope_scaling": {"type": "yarn", "factor": 2.0}}).rope
    assert rope.original_max_position == 64


def test_mistral_slides_on_every_layer_or_none() -> None:
    assert MISTRAL({**SIZES, "sliding_window": 8}).windows == (8, 8, 8)
    assert MISTRAL({**SIZES, "sliding_window": None}).windows == (None, None, None)


def test_qwen2_has_biases_and_slides_where_it_is_told() -> None:
    fields = {**SIZES, "sliding_window": 8, "max_window_layers": 1}
    assert QWEN2(fields).windows == (None, None, None)  # use_sliding_window is off
    assert QWEN2({**fields, "use_sliding_window": True}).windows == (None, 8, 8)
    every = QWEN2({**fields, "use_sliding_window": True, "max_window_layers": 0})
    assert every.windows == (8, 8, 8)
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    config = QWEN2({**fields, "use_sliding_window": True, "layer_types": kinds})
    assert config.windows == (8, None, None)
    assert config.biases == ("wq", "wk", "wv")
    assert not config.qk_norm


def test_qwen3_has_head_norms_and_a_head_size_of_its_own() -> None:
    config = QWEN3({**SIZES, "head_dim": 128})
    assert config.qk_norm
    assert (config.head_dim, config.biases) == (128, ())
    config = QWEN3({**SIZES, "head_dim": 128, "attention_bias": True})
    assert config.biases == ("wq", "wk", "wv", "wo")


def test_seed_oss_has_biases_by_three_fields() -> None:
    fields = {**SIZES, "head_dim": 16, "attention_bias": True}
    assert SEED_OSS(fields).biases == ("wq", "wk", "wv")
    assert SEED_OSS({**fields, "attention_out_bias": True}).biases == ("wq", "wk", "wv", "wo")
    config = SEED_OSS({**fields, "attention_bias": False, "mlp_bias": True})
    assert config.biases == ("w_gate", "w_up", "w_down")
    with pytest.raises(ValueError, match="sliding_window = 8 is not supported"):
        SEED_OSS({**fields, "sliding_window": 8})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \('gptq'\)"),
    ({"quantization_config": "fp8"}, r"quantization_config \('fp8'\)"),
    ({"quantization": {"bits": 4}}, "quantization = "),
    ({"hidden_act": "gelu"}, "hidden_act = 'gelu'.*only 'silu' is"),
    ({"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    ({"rope_interleaved": True}, "rope_interleaved = True"),
    ({"dual_chunk_attention_config": {"chunk_size": 1}}, "dual_chunk_attention_config"),
    ({"attention_chunk_size": 8}, "attention_chunk_size = 8"),
    ({"no_rope_layers": [1]}, "no_rope_layers"),
    ({"clip_qkv": 8.0}, "clip_qkv"),
    ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    ({"attention_multiplier": 0.1}, "attention_multiplier"),
    ({"embedding_multiplier": 12}, "embedding_multiplier"),
    ({"residual_multiplier": 0.2}, "residual_multiplier"),
    ({"logits_scaling": 8}, "logits_scaling"),
    ({"logit_scale": 0.5}, "logit_scale"),
    ({"is_causal": False}, "is_causal = False"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ({"add_cross_attention": True}, "add_cross_attention"),
    ({"num_experts": 8}, "num_experts = 8"),
    ({"num_local_experts": 8}, "num_local_experts = 8"),
    ({"compression_config": {}}, "compression_config"),
    ({"sliding_window": 8}, "sliding_window = 8"),
    ({"layer_types": ["full_attention"] * 3}, "layer_types"),
    ({"vocab_size": None}, "no vocab_size: add it"),
    ({"hidden_size": "32"}, "hidden_size must be a whole number above 0, got '32'"),
    ({"num_hidden_layers": True}, "num_hidden_layers must be a whole number above 0, got True"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 1000, got 1000000000"),
    ({"num_attention_heads": 0}, "num_attention_heads must be a whole number above 0, got 0"),
    ({"num_attention_heads": 5}, r"no head_dim, and hidden_size \(32\).*num_attention_heads \(5\)"),
    ({"attention_bias": "yes"}, "attention_bias must be true or false, got 'yes'"),
    ({"rms_norm_eps": 0}, "rms_norm_eps must be a number above 0, got 0"),
    ({"rope_theta": "big"}, "rope_theta must be a number, got 'big'"),
    ({"rope_scaling": 2.0}, "rope_scaling must be an object, got 2.0"),
    ({"rope_scaling": {"type": "dynamic"}}, "needs factor, which is missing"),
    (
        {"rope_scaling": {"type": "longrope", "short_factor": [1]}},
        "long_factor must be a list with a number for each pair, got None",
    ),
    ({"rope_parameters": {"full_attention": {}}}, "rope field full_attention"),
    ({"rope_scaling": {"type": "linear"}}, "needs factor, which is missing"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be above 0"),
    ({"rope_scaling": {"type": "llama3", "factor": 8.0}}, "needs low_freq_factor"),
    (
        {"rope_scaling": {"type": "llama3", **LLAMA3, "low_freq_factor": 5}},
        "low_freq_factor must not be above high_freq_factor, got 5 and 4",
    ),
    ({"rope_scaling": {"type": "yarn"}, "rope_theta": 1}, "yarn needs a rope_theta above 1, got 1"),
    ({"rope_scaling": {"type": "yarn", "beta_slow": 0}}, "beta_slow must be above 0, got 0"),
    ({"rope_theta": -1}, "rope_theta must be above 0, got -1"),
    ({"rope_scaling": {"type": "yarn", "truncate": 1}}, "truncate must be true or false, got 1"),
    (
        {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 1.0}},
        "both rope_scaling and rope_parameters, and they differ",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_fields_that_are_refused(fields: dict[str, Any], message: str) -> None:
    LLAMA(SIZES)
    with pytest.raises(ValueError, match=message):
        LLAMA({**SIZES, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no sliding_window, whose default is not the same everywhere: add it"),
        ({"sliding_window": 8, "attention_bias": True}, "attention_bias = True"),
        ({"sliding_window": 8, "layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"sliding_window": 0}, "sliding_window must be a whole number above 0, got 0"),
    ],
)
def test_what_mistral_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MISTRAL({**SIZES, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_sliding_window": True}, "no sliding_window: add it"),
        ({"use_sliding_window": True, "sliding_window": 8}, "no max_window_layers"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": -1},
            "max_window_layers must be a whole number of at least 0, got -1",
        ),
        ({"layer_types": ["full_attention"]}, "layer_types must list one kind for each of the 3"),
        ({"layer_types": "full_attention"}, "layer_types must list one kind"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types has 'chunked_attention'"),
        ({"layer_types": ["sliding_attention"] * 3}, "use_sliding_window is not true"),
        ({"mlp_bias": True}, "mlp_bias = True"),
    ],
)
def test_what_qwen_refuses(fields: dict[str, Any], message: str) -> None:
    for family in (QWEN2, QWEN3):
        with pytest.raises(ValueError, match=message):
            family({**SIZES, "head_dim": 8, **fields})


@pytest.mark.parametrize(
    ("family", "name"),
    [(QWEN2, "num_key_value_heads"), (QWEN3, "head_dim"), (SEED_OSS, "attention_bias")],
)
def test_fields_with_uncertain_defaults_are_needed(family: Any, name: str) -> None:
    fields = {**SIZES, "head_dim": 8, "attention_bias": True}
    del fields[name]
    with pytest.raises(ValueError, match=f"no {name}, whose default"):
        family(fields)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    message = "'BloomForCausalLM' is not supported. Known are: .*LlamaForCausalLM, .*qwen3"
    with pytest.raises(ValueError, match=message):
        find_family("BloomForCausalLM")


def test_longrope_has_factors_for_two_contexts() -> None:
    fields = {
        "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "su", "short_factor": [1, 2], "long_factor": [4, 8]},
    }
    rope = LLAMA({**SIZES, **fields}).rope
    assert rope == RopeConfig(
        kind="longrope", factor=4, original_max_position=16, short_factors=(1, 2),
        long_factors=(4, 8),
    )  # fmt: skip


def test_a_context_chooses_the_frequencies_of_longrope_and_dynamic() -> None:
    def frequencies(fields: dict[str, Any], length: int) -> tuple[int, list[float]]:
        config = find_family("llama").config_from_hf({**SIZES, "head_dim": 4, **fields})
        model = decoder(config).for_context(length)
        rope = features(config.for_context(length)).rope
        assert rope is not None
        return model.max_position, rope_frequencies(rope, 4)[0].tolist()

    longrope = {
        "original_max_position_embeddings": 16,
        "rope_scaling": {"type": "longrope", "short_factor": [1, 2], "long_factor": [4, 8]},
    }
    assert frequencies(longrope, 16) == (16, pytest.approx([1, 0.005]))
    assert frequencies(longrope, 17) == (17, pytest.approx([0.25, 0.00125]))
    assert frequencies(longrope, 1000)[0] == 64  # max_position_embeddings
    dynamic = {"rope_scaling": {"type": "dynamic", "factor": 2.0}}
    assert frequencies(dynamic, 64) == (64, pytest.approx([1, 0.01]))
    # theta * (2 * 96 / 64 - 1) ** (4 / 2)
    assert frequencies(dynamic, 96) == (96, pytest.approx([1, 0.005]))
    assert frequencies(dynamic, 1000)[0] == 128
