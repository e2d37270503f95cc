"""What families with states, latents or experts read from config.json in older spellings; models
whose layers are all of one kind are written too.
"""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.families import Family, find_family, hf_fields
from tests.extras import extra
from tests.models.family_table import row_of

# What transformers writes of fields that the rows leave at its defaults.
DEFAULTS = {
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "position_embedding_type": None,
    "n_group": 1,
    "topk_group": 1,
    "sliding_window": None,
}
CONV, LINEAR, FULL = "conv", "linear_attention", "full_attention"


def read(name: str, **changes: Any) -> tuple[Family, Any]:
    """The family of a row, and the configuration of its fields and others."""
    row = row_of(name)
    family = find_family(row.model)
    return family, family.config_from_hf({**DEFAULTS, **row.options, **changes})


def test_lfm2_gives_the_size_of_its_mlp_and_its_attention_in_an_older_spelling() -> None:
    family, config = read("lfm2_conv")
    fields = hf_fields(family, config)
    for name in ("intermediate_size", "layer_types", "tie_embedding"):
        del fields[name]
    older = {"block_ff_dim": 56, "full_attn_idxs": [1], "tie_word_embeddings": False}
    assert family.config_from_hf({**fields, **older}) == config


def test_granite_names_its_kinds_in_an_older_spelling() -> None:
    older = {"layer_types": None, "layers_block_type": ["mamba", "attention", "mamba"]}
    _, config = read("granitemoehybrid_dense")
    assert read("granitemoehybrid_dense", **older)[1] == config


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lfm2_conv", {"layer_types": [FULL] * 3}),
        ("lfm2_conv", {"layer_types": [CONV] * 3}),
        ("granitemoehybrid_dense", {"layer_types": [FULL] * 3}),
        ("granitemoehybrid_experts", {"layer_types": [LINEAR] * 2}),
        ("qwen3_next_experts", {"layer_types": [FULL] * 2, "partial_rotary_factor": 1.0}),
        ("qwen3_next_experts", {"layer_types": [LINEAR] * 2, "mlp_only_layers": [0, 1]}),
        ("deepseek_v2", {"first_k_dense_replace": 3}),
        ("deepseek_v3", {"first_k_dense_replace": 3}),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense", "dense"]}),
        ("qwen3_moe", {"mlp_only_layers": [0, 1, 2, 3]}),
    ],
)
def test_a_model_of_one_kind_of_layers_is_written(name: str, changes: dict[str, Any]) -> None:
    family, config = read(name, **changes)
    assert len({type(layer.mixer) for layer in config.layers}) == 1
    assert family.config_from_hf(hf_fields(family, config)) == config


@pytest.mark.parametrize("name", ["lfm2_conv", "mixtral"])
def test_a_theta_that_the_file_leaves_out_is_transformers(name: str) -> None:
    own = getattr(extra("transformers"), row_of(name).model).config_class(**row_of(name).options)
    fields = {**own.to_dict(), "rope_parameters": None, "rope_scaling": None}
    config = find_family(row_of(name).model).config_from_hf(fields)
    ropes = [layer.mixer.rotation[0] for layer in config.layers if layer.mixer.rotation]
    assert {each.theta for each in ropes} == {own.default_theta}
