"""What is known of a config.json before PyTorch is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import flaxen
from flaxen.definitions.torch.checkpoint import open_torch, torch_advice
from flaxen.definitions.torch.config import check_runs_through_torch
from flaxen.kernels.backend import Backend

METHODS = (
    "awq", "gptq", "bitsandbytes", "fp8", "compressed-tensors", "mxfp4", "hqq", "torchao", "quanto",
)  # fmt: skip
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}


def write(directory: Path, fields: dict[str, Any]) -> Path:
    (directory / "config.json").write_text(json.dumps(fields))
    return directory


@pytest.mark.parametrize("method", METHODS)
def test_quantized_checkpoints_are_refused_before_anything_is_imported(
    method: str, tmp_path: Path
) -> None:
    fields = {"model_type": "olmo2", "quantization_config": {"quant_method": method}}
    with pytest.raises(ValueError, match=rf"config\.json: quantization_config \('{method}'\) is"):
        open_torch(write(tmp_path, fields), Backend.REFERENCE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"quantization_config": {}}}, r"quantization_config \(None\)"),
        ({"quantization": {"bits": 4}}, r"quantization \(None\) is not supported"),
        ({"rope_scaling": LONGROPE}, r"rope kind 'longrope' \(rope_scaling\).*on other requests"),
        ({"rope_scaling": {"type": "su"}}, "rope kind 'su'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope kind 'dynamic'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope kind 'dynamic'"),
        ({"text_config": {"rope_scaling": {"type": "dynamic"}}}, "rope kind 'dynamic'"),
        ({"layer_types": ["linear_attention"]}, "a recurrent state .*layer_types has 'linear_att"),
        ({"layer_types": ["attention", "mamba"]}, "a recurrent state .*layer_types has 'mamba'"),
        ({"state_size": 16}, r"a recurrent state are not supported \(it has state_size\)"),
        ({"mamba_d_ssm": 16}, r"a recurrent state are not supported \(it has mamba_d_ssm\)"),
        ({"model_type": "rwkv"}, "a recurrent state .*model_type is 'rwkv'"),
        ({"is_encoder_decoder": True}, "olmo2 is an encoder with a decoder"),
        ({"model_type": None}, "model_type must name the model's class, got None"),
        ({"model_type": ["olmo2"]}, "model_type must name the model's class, got "),
    ],
)
def test_what_no_class_can_be_served_with(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_runs_through_torch({"model_type": "olmo2", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_scaling": None, "quantization_config": None, "is_encoder_decoder": False},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"layer_types": ["sliding_attention", "full_attention"]},
        {"layer_types": ["attention", "attention"], "mamba_d_state": 16},  # Granite 4 without Mamba
    ],
)
def test_what_may_run(fields: dict[str, Any]) -> None:
    check_runs_through_torch({"model_type": "olmo2", **fields})


def test_pytorch_is_advised_where_it_may_help(tmp_path: Path) -> None:
    write(tmp_path, {"architectures": ["FooForCausalLM"], "model_type": "foo"})
    with pytest.raises(ValueError, match=r"'FooForCausalLM' is not supported.*and impl=torch$"):
        flaxen.LLM(str(tmp_path), impl="flaxen")
    assert torch_advice(tmp_path / "config.json") == ""  # as of a GGUF file


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config \('awq'\)"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope kind 'dynamic'"),
        ({"state_size": 16}, "a recurrent state"),
    ],
)
def test_pytorch_is_not_advised_where_it_is_known_to_fail(
    fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    write(tmp_path, {"architectures": ["FooForCausalLM"], "model_type": "foo", **fields})
    with pytest.raises(ValueError, match=f"Nor can it run through PyTorch: .*{reason}") as caught:
        flaxen.LLM(str(tmp_path), impl="flaxen")
    assert "impl=torch" not in str(caught.value)
