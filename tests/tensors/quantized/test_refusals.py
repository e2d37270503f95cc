"""Quantized checkpoints that can't be honoured are refused, never read as plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.weights.checkpoint import open_checkpoint
from tests.tensors.quantized import made

PACKED = made.packed_integers(bits=4, group=32, symmetric=True, dtype=np.float16)
GROUPS = made.compressed(group_size=32)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
FIRST = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes"}, "method 'bitsandbytes', which is not supported: compr"),
        ({"quant_method": "hqq"}, r"'hqq', which is not supported.*--quantization int8 or int4"),
        ({}, "names the method None, which is not supported"),
        ("int8", "names the method 'int8', which is not supported"),
        ({**AWQ, "version": "gemv"}, r"\('awq'\): AWQ's version 'gemv' is not .* only gemm is"),
        ({**AWQ, "bits": 8}, "AWQ with 8 bits is not supported: only 4 bits are"),
        ({**AWQ, "group_size": 0}, "group_size must be a number above 0, or -1 .*, got 0"),
        ({**GPTQ, "bits": 3}, "GPTQ with 3 bits is not supported: 2, 4, 8 bits are"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin' is not supported"),
        ({**GPTQ, "group_size": None}, "group_size must be a number above 0, or -1 .*, got None"),
        ({**GPTQ, "pack_dtype": "int16"}, "pack_dtype 'int16' is not supported: only int32"),
        ({**GPTQ, "dynamic": {"+:.*down.*": {"bits": 8}}}, r"'\+:\.\*down\.\*' settings of their"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "format 'e5m2' is not supported: only e4m3 is"),
        ({"quant_method": "fp8", "weight_block_size": [0, 1]}, "must be two numbers above 0, got"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "quant_algo 'NVFP4' is not supp"),
        ({**GROUPS, "format": "marlin-24"}, "the format 'marlin-24' of compressed-tensors is not"),
        ({**GROUPS, "config_groups": {}}, "has no config_groups, which say how weights are quant"),
        ({**GROUPS, "config_groups": {"g": {}}}, "g of config_groups has no weights"),
        (made.compressed(num_bits=3), "num_bits 3, type 'int' and strategy 'group', which is not"),
        (made.compressed("tensor_group", num_bits=4, type="float"), "strategy 'tensor_group'"),
        ({**GROUPS, "sparsity_config": {"format": "sparse-24"}}, "format 'sparse-24', which is n"),
        (
            {**GROUPS, "transform_config": {"config_groups": {"u": {}}}},
            "transform_config turns activations while the model runs, which is not supported",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, quantization: Any, message: str) -> None:
    made.write_model(tmp_path, PACKED, quantization)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("end", "value", "message"),
    [
        ("weight_scale", None, "q_proj.weight_scale is missing, without which the quantized wei"),
        ("weight_shape", None, "q_proj.weight_shape is missing"),
        ("weight_scale", np.ones((128, 2), np.float16), r"shape \[128, 2\], .* needs \[128, 3\]"),
        (
            "weight_packed",
            np.ones((128, 4), np.int32),
            r"weight_packed has shape \[128, 4\], but .* needs \[128, 12\]: the two do not belong",
        ),
        ("weight_g_idx", np.arange(96, dtype=np.int32), "does not give each group 32 inputs"),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, end: str, value: np.ndarray | None, message: str
) -> None:
    made.write_model(tmp_path, PACKED, GROUPS, {f"{FIRST}.{end}": value})
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


def test_a_target_must_name_each_quantized_weight(tmp_path: Path) -> None:
    groups = {"g": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "group_size": 32}}}
    made.write_model(tmp_path, PACKED, {**GROUPS, "config_groups": groups})
    with pytest.raises(ValueError, match="no targets in config_groups of quantization_config name"):
        open_checkpoint(tmp_path)


def test_numbers_without_scales_are_refused(tmp_path: Path) -> None:
    made.write_model(tmp_path, PACKED, AWQ)
    with pytest.raises(ValueError, match="weight_packed has dtype I32, and nothing in the files"):
        open_checkpoint(tmp_path)


def test_symmetric_gptq_has_its_zeros_in_the_middle(tmp_path: Path) -> None:
    make = made.gptq(4, 32, symmetric=False)
    made.write_model(tmp_path, make, GPTQ)
    with pytest.raises(ValueError, match=r'zeros that are not in the middle, and .*"sym": true'):
        open_checkpoint(tmp_path).load_params(jnp.dtype("float32"))


@pytest.mark.parametrize("backend", [Backend.CPU, Backend.REFERENCE])
def test_a_quantized_model_is_not_quantized_again(tmp_path: Path, backend: Backend) -> None:
    made.write_model(tmp_path, PACKED, GROUPS)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="quantized already, by compressed-tensors: quantization"):
        checkpoint.load_params(jnp.dtype("float32"), backend=backend, quantization="int8")


def test_modules_that_are_left_out_stay_as_they_are(tmp_path: Path) -> None:
    plain = np.random.default_rng(0).normal(size=(128, 96)).astype(np.float32)
    dropped = {f"{FIRST}.{end}": None for end in ("weight_packed", "weight_scale", "weight_shape")}
    changed = {**dropped, f"{FIRST}.weight": plain}
    made.write_model(tmp_path, PACKED, {**GROUPS, "ignore": ["lm_head", FIRST]}, changed)
    params = open_checkpoint(tmp_path).load_params(
        jnp.dtype("float32"), backend=Backend.CPU, quantization="auto"
    )
    first = params["layers"][0]
    assert (first["wq"].format, first["wk"].format) == ("float32", "int4")
