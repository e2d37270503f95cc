"""Fields of DeepSeek's configurations that would change the result are refused."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.families import find_family
from tests.models.family_table import row_of

V3 = find_family("DeepseekV3ForCausalLM")
LITE = find_family("Glm4MoeLiteForCausalLM")
V2 = find_family("DeepseekV2ForCausalLM")
FIELDS = {
    **row_of("deepseek_v3").options,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        (V3, {"num_key_value_heads": 1}, "num_key_value_heads = 1 is not supported: latent"),
        (
            V3,
            {"scoring_func": "softmax"},
            "scoring_func = 'softmax' is not supported in DeepSeek V3",
        ),
        (V3, {"kv_lora_rank": None}, "kv_lora_rank"),
        (LITE, {"mlp_layer_types": ["dense"]}, "mlp_layer_types must list dense or sparse for"),
        (
            V2,
            {"scoring_func": "sigmoid"},
            "scoring_func = 'sigmoid' is not supported in DeepSeek V2",
        ),
        (
            V2,
            {"topk_method": "noaux_tc"},
            "topk_method = 'noaux_tc' is not supported in DeepSeek V2",
        ),
        (V2, {"norm_topk_prob": True}, "norm_topk_prob = True is not supported"),
    ],
)
def test_what_would_change_the_result_is_refused(
    family: Any, changes: dict[str, Any], message: str
) -> None:
    given = FIELDS if family is not V2 else {**FIELDS, "norm_topk_prob": False}
    family.config_from_hf(given)
    with pytest.raises(ValueError, match=message):
        family.config_from_hf({**given, **changes})
