"""What the dense families read from config.json in older spellings, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.families import find_family, find_gguf_family, hf, hf_fields, hf_values
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.rope_config import RopeConfig
from tests.models.test_hf_config import SIZES

OWN = {"head_dim": 8, "rms_norm_eps": 1e-5}
GEMMA2 = {**OWN, "query_pre_attn_scalar": 24, "sliding_window": 8,
          "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # fmt: skip
GEMMA3 = {**OWN, "query_pre_attn_scalar": 24, "sliding_window": 8, "sliding_window_pattern": 3}


def read(name: str, **fields: Any) -> DecoderConfig:
    return find_family(f"{name}ForCausalLM").config_from_hf({**SIZES, **fields})


def ropes(config: DecoderConfig) -> list[RopeConfig | None]:
    return [each.mixer.rope for each in config.layers if isinstance(each.mixer, Attention)]


def test_gemma_means_gelu_with_tanh_and_is_tied() -> None:
    config = read("Gemma", **OWN, hidden_act="gelu")
    mlp = config.layers[0].mlp
    assert mlp is not None
    assert getattr(mlp, "activation", None) == "gelu_tanh"
    assert config.tied_embeddings


def test_gemma2_slides_on_every_second_layer() -> None:
    config = read("Gemma2", **GEMMA2)
    assert hf.windows(config) == (8, None, 8)
    assert (config.logit_softcap, hf.first(config, Attention).softcap) == (30, 50)
    assert hf_fields(find_family("gemma2"), config)["query_pre_attn_scalar"] == 24
    config = read("Gemma2", **{**GEMMA2, "attn_logit_softcapping": None})
    assert hf.first(config, Attention).softcap is None


def test_gemma3_has_two_ropes_in_both_spellings() -> None:
    local, scaled = RopeConfig(), RopeConfig(kind="linear", theta=1e6, factor=8)
    config = read("Gemma3", **GEMMA3, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert ropes(config) == [local, local, scaled]
    nested = {"full_attention": {"rope_type": "linear", "factor": 8.0}}
    assert read("Gemma3", **GEMMA3, rope_parameters=nested) == config
    assert hf_fields(find_family("gemma3_text"), config)["rope_local_base_freq"] == 10_000


def test_smollm3_has_no_rope_on_every_fourth_layer() -> None:
    config = read("SmolLM3", num_hidden_layers=4)
    assert ropes(config) == [*[RopeConfig(theta=2e6)] * 3, None]
    config = read("SmolLM3", no_rope_layers=[0, 1, 0], use_sliding_window=True, sliding_window=8)
    assert [each is None for each in ropes(config)] == [True, False, True]
    assert hf.windows(config) == (8, None, 8)  # those without rope
    with pytest.raises(ValueError, match="no_rope_layers must list 1 or 0 for each of the 3"):
        read("SmolLM3", no_rope_layers=[1])


def test_olmo3_scales_the_rope_of_full_layers_alone() -> None:
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = read("Olmo3", **OWN, num_hidden_layers=4, sliding_window=8, rope_scaling=scaling)
    scaled = RopeConfig(kind="linear", theta=5e5, factor=8)
    assert ropes(config) == [*[RopeConfig(theta=5e5)] * 3, scaled]


def test_cohere2_and_exaone4_have_no_rope_on_full_layers() -> None:
    config = read("Cohere2", num_hidden_layers=4, sliding_window=8)
    assert [each is None for each in ropes(config)] == [False, False, False, True]
    assert config.logit_scale == 0.0625
    config = read("Exaone4", **OWN, num_hidden_layers=4, sliding_window=8)
    assert [each is None for each in ropes(config)] == [False, False, False, True]
    assert None not in ropes(read("Exaone4", **OWN, sliding_window=None))


def test_numbers_are_found_again_to_the_bit() -> None:
    for value in (0.3, 3.0, 7.0, 8.0, 13.0, 16.0):
        scale = 1 / value
        found = hf_values.argument(lambda each: 1 / each, scale, 1 / scale)
        assert 1 / found == scale


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("Gemma", {}, "no head_dim, whose default is not the same everywhere"),
        ("Gemma2", {**GEMMA2, "layer_types": ["full_attention"]}, "layer_types must list one kind"),
        ("Gemma2", {**GEMMA2, "layer_types": ["x"] * 3}, "layer_types has 'x', which is not"),
        ("Gemma3", {**GEMMA3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ("Gemma3", {**GEMMA3, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Phi3", {**OWN, "hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu' is not supported"),
        ("Cohere", {"use_qk_norm": True}, "use_qk_norm = True is not supported"),
        ("Granite", {"logits_scaling": 0}, "logits_scaling must be a number above 0"),
        ("Olmo2", {**OWN, "clip_qkv": 8.0}, "clip_qkv = 8.0"),
        (
            "Exaone4",
            {**OWN, "sliding_window": None, "layer_types": ["sliding_attention"] * 3},
            "layer_types has sliding_attention, but sliding_window is null",
        ),
    ],
)
def test_what_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(name, **fields)


def test_gguf_files_that_are_not_read_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"of the architecture 'bloom' are not supported\. Known"):
        find_gguf_family("bloom", {})
