"""Fields of published config.json files that the families' own writers leave out or spell apart:
what is read, what is written again, and what is refused by its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.families import find_family, hf, hf_fields
from flaxen.models.config import DecoderConfig
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.experts import Experts
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.huggingface.config import read_config
from tests.models.test_hf_config import SIZES

EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8, "rms_norm_eps": 1e-5}
LLAMA4 = {**EXPERTS, "intermediate_size_mlp": 48, "use_qk_norm": True, "attention_chunk_size": 8,
          "num_hidden_layers": 4}  # fmt: skip


def read(name: str, **fields: Any) -> DecoderConfig:
    return find_family(f"{name}ForCausalLM").config_from_hf({**SIZES, **fields})


def mixers(config: DecoderConfig) -> list[Attention]:
    return [each.mixer for each in config.layers if isinstance(each.mixer, Attention)]


def test_smollm3_says_how_it_was_trained() -> None:
    assert read("SmolLM3", pretraining_tp=2) == read("SmolLM3")


def test_llama4_leaves_out_what_follows_from_its_numbers() -> None:
    found = read("Llama4", **LLAMA4, no_rope_layers=[])
    assert [each.rope is None for each in mixers(found)] == [False, False, False, True]
    assert [each.chunk for each in mixers(found)] == [8, 8, 8, None]
    tuned = mixers(found)[3].temperature
    assert tuned is not None
    assert (tuned.interval, tuned.scale) == (8192, 0.1)
    assert all(isinstance(each.mlp, Experts) for each in found.layers)
    assert mixers(found)[0].rope == RopeConfig(theta=5e5, interleaved=True)


def test_llama4_has_experts_on_every_second_layer_and_a_number_for_its_temperature() -> None:
    found = read("Llama4", **LLAMA4, interleave_moe_layer_step=2, attn_temperature_tuning=4)
    assert [isinstance(each.mlp, Experts) for each in found.layers] == [False, True, False, True]
    assert mixers(found)[3].temperature is not None
    assert mixers(read("Llama4", **LLAMA4, attn_temperature_tuning=0))[3].temperature is None


def test_gpt_oss_slides_on_every_second_layer_and_has_a_theta_of_its_own() -> None:
    plain = {"rope_scaling": {"rope_type": "default"}}
    found = read("GptOss", **EXPERTS, **plain, sliding_window=8)
    assert hf.windows(found) == (8, None, 8)
    assert mixers(found)[0].rope == RopeConfig(theta=150_000)
    # transformers takes YaRN where this is missing.
    assert hf_fields(find_family("gpt_oss"), found)["rope_scaling"] == plain["rope_scaling"]


def test_mixtral_has_a_theta_of_its_own() -> None:
    assert mixers(read("Mixtral", **EXPERTS, sliding_window=None))[0].rope == RopeConfig(theta=1e6)


def test_gemma3_writes_the_scaling_of_both_ropes() -> None:
    ropes = {
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0},
    }
    found = read("Gemma3", **EXPERTS | {"num_local_experts": None}, rope_parameters=ropes,
                 query_pre_attn_scalar=24, sliding_window=8, sliding_window_pattern=2)  # fmt: skip
    assert hf_fields(find_family("gemma3_text"), found)["rope_parameters"] == ropes


def test_the_range_of_yarn_is_rounded_where_ropes_differ_by_layer() -> None:
    """As in transformers, which does not find `truncate` there."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    own = {"rms_norm_eps": 1e-5, "sliding_window": 8}
    flat = read("Olmo3", **own, num_hidden_layers=4, rope_scaling=yarn | {"truncate": False})
    assert flat == read("Olmo3", **own, num_hidden_layers=4, rope_scaling=yarn)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_gpt2_divides_scores_by_the_number_of_the_layer(num_layers: int) -> None:
    fields = {"vocab_size": 64, "n_embd": 32, "n_layer": num_layers, "n_head": 2,
              "n_positions": 16, "scale_attn_by_inverse_layer_idx": True}  # fmt: skip
    family = find_family("gpt2")
    found = family.config_from_hf(fields)
    assert [each.scale for each in mixers(found)] == [None, 0.125, 0.25 / 3][:num_layers]
    assert family.config_from_hf(hf_fields(family, found)) == found


def test_ministral3_has_an_interval_without_yarn() -> None:
    rope = {
        "rope_type": "default",
        "rope_theta": 1000.0,
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 16,
    }
    found = read("Ministral3", head_dim=8, rms_norm_eps=1e-5, rope_parameters=rope)
    assert hf_fields(find_family("ministral3"), found)["rope_parameters"] == rope


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Phi3", {}),
        ("Mixtral", {"sliding_window": None}),
        ("Olmoe", {"norm_topk_prob": True}),
        ("Glm4Moe", {"head_dim": 8, "use_qk_norm": True}),
        ("Ministral3", {"head_dim": 8, "rope_parameters": {}}),
        ("GptOss", {"head_dim": 8, "sliding_window": 8}),
        ("Llama4", {**LLAMA4, "rms_norm_eps": 0}),
    ],
)
def test_an_epsilon_with_several_defaults_is_needed(name: str, fields: dict[str, Any]) -> None:
    fields.pop("rms_norm_eps", None)
    with pytest.raises(ValueError, match="no rms_norm_eps, whose default is not the same"):
        read(name, **fields)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("GptOss", {**EXPERTS, "sliding_window": 8}, "no rope_scaling, where versions of transf"),
        (
            "Olmo3",
            {**EXPERTS, "num_local_experts": None, "rope_parameters": {"rope_theta": 1e3}},
            "rope_parameters must have an entry for each kind of layer",
        ),
        ("Llama4", {**LLAMA4, "layer_types": ["x"] * 4}, "layer_types has 'x', which is not"),
        ("Llama4", {**LLAMA4, "no_rope_layers": [1]}, "must have an entry for each of the 4"),
    ],
)
def test_what_is_refused(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(name, **fields)


def test_a_model_of_images_is_told_from_its_text_model(tmp_path: Path) -> None:
    fields = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text"},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps(fields))
    message = "reads more than text.*save it in a directory of its own.*Gemma3ForCausalLM"
    with pytest.raises(ValueError, match=message):
        read_config(file)
