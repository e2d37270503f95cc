"""Quantized checkpoints stand for the values that their formats define, on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import LinearWeight, gated_linear, unpack
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface
from tests.models.golden import logits_of
from tests.tensors.quantized import made

FLOAT32 = jnp.dtype("float32")
_PARAMS = {
    "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "gate_proj": "w_gate",
    "up_proj": "w_up", "down_proj": "w_down",
}  # fmt: skip


class Case(NamedTuple):
    """A format, its configuration, and what its weights become."""

    make: made.Make
    quantization: dict[str, Any]
    format: str | None  # of packed weights; None if they become floats


def _integers(symmetric: bool, dtype: Any, group: int = 32, **more: Any) -> dict[str, Any]:
    return {"bits": 4, "group": group, "symmetric": symmetric, "dtype": dtype, **more}


def _gptq(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, **more}


BF16, F16, F32 = ml_dtypes.bfloat16, np.float16, np.float32
CASES = {
    "int4 symmetric": Case(
        made.packed_integers(**_integers(True, BF16)), made.compressed(group_size=32), "int4"
    ),
    "int4 in groups of 64": Case(
        made.packed_integers(**_integers(True, F16, 64)), made.compressed(group_size=64), "int4"
    ),
    "int4 in groups of 128": Case(
        made.packed_integers(**_integers(True, F32, 128)), made.compressed(group_size=128), "int4"
    ),
    "int4 by channel": Case(
        made.packed_integers(**_integers(True, BF16, -1)), made.compressed("channel"), "int4"
    ),
    "int4 with zeros": Case(
        made.packed_integers(**_integers(False, BF16, 32)),
        made.compressed(group_size=32, symmetric=False),
        "int4",
    ),
    "int4 with zeros and wide scales": Case(
        made.packed_integers(**_integers(False, F32, 32)),
        made.compressed(group_size=32, symmetric=False),
        "int8",
    ),
    "int4 in the order of activations": Case(
        made.packed_integers(**_integers(True, F16, 32, shuffled=True)),
        made.compressed(group_size=32, actorder="group"),
        "int4",
    ),
    "int8 packed": Case(
        made.packed_integers(**_integers(True, BF16, 32) | {"bits": 8}),
        made.compressed(group_size=32, num_bits=8),
        "int8",
    ),
    "int2": Case(
        made.packed_integers(**_integers(True, BF16, 32) | {"bits": 2}),
        made.compressed(group_size=32, num_bits=2),
        "int4",
    ),
    "int8 by channel": Case(
        made.plain_integers(group=-1, symmetric=True, dtype=BF16),
        made.compressed("channel", num_bits=8),
        "int8",
    ),
    "int8 with zeros": Case(
        made.plain_integers(group=-1, symmetric=False, dtype=F16),
        made.compressed("channel", num_bits=8, symmetric=False),
        "int8",
    ),
    "int8 with zeros and wide scales": Case(
        made.plain_integers(group=-1, symmetric=False, dtype=F32),
        made.compressed("channel", num_bits=8, symmetric=False),
        None,
    ),
    "awq": Case(made.awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32}, "int4"),
    "awq in groups of 128": Case(
        made.awq(128), {"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"
    ),
    "gptq": Case(made.gptq(4, 32, symmetric=True), _gptq(4, 32, sym=True), "int4"),
    "gptq with zeros": Case(made.gptq(4, 64, symmetric=False), _gptq(4, 64, sym=False), "int4"),
    "gptq of one group": Case(made.gptq(4, -1, symmetric=True), _gptq(4, -1, sym=True), "int4"),
    "gptq 2": Case(
        made.gptq(4, 32, symmetric=False, version=2),
        _gptq(4, 32, checkpoint_format="gptq_v2"),
        "int4",
    ),
    "gptq of 8 bits": Case(made.gptq(8, 32, symmetric=False), _gptq(8, 32), "int8"),
    "gptq of 2 bits": Case(made.gptq(2, 32, symmetric=False), _gptq(2, 32), "int4"),
    "gptq in the order of activations": Case(
        made.gptq(4, 32, symmetric=False, shuffled=True), _gptq(4, 32, desc_act=True), "int4"
    ),
    "fp8 in blocks": Case(
        made.float8("weight_scale_inv", (64, 64)),
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 64]},
        "float8",
    ),
    "fp8 in large blocks": Case(
        made.float8("weight_scale_inv", (128, 128)),
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        "float8",
    ),
    "fp8 of one scale": Case(made.float8("weight_scale"), {"quant_method": "fp8"}, "float8"),
    "fp8 of fbgemm": Case(
        made.float8("weight_scale", by_output=True), {"quant_method": "fbgemm_fp8"}, "float8"
    ),
    "fp8 of ModelOpt": Case(
        made.float8("weight_scale"), {"quant_method": "modelopt", "quant_algo": "FP8"}, "float8"
    ),
    "fp8 of compressed-tensors": Case(
        made.float8("weight_scale", by_output=True),
        made.compressed("channel", num_bits=8, type="float"),
        "float8",
    ),
    "fp8 of compressed-tensors in blocks": Case(
        made.float8("weight_scale", (64, 32)),
        made.compressed("block", num_bits=8, type="float", block_structure=[64, 32]),
        "float8",
    ),
    "mxfp4": Case(
        made.mxfp4("weight_blocks", "weight_scales", by_block=True),
        {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
        "float4",
    ),
    "mxfp4 of compressed-tensors": Case(
        made.mxfp4("weight_packed", "weight_scale", by_block=False),
        made.compressed(num_bits=4, type="float", group_size=32),
        "float4",
    ),
}


def assert_values(params: Any, values: dict[str, np.ndarray]) -> set[str]:
    """Every weight has the values of the file to the bit. Returns the formats of packed ones."""
    formats = set()
    for module, expected in values.items():
        layer, end = int(module.split(".")[2]), module.split(".")[-1]
        leaf = params["layers"][layer][_PARAMS[end]]
        found = leaf
        if isinstance(leaf, LinearWeight):
            formats.add(leaf.format)
            found = unpack(leaf)
        np.testing.assert_array_equal(np.asarray(found), expected.T, err_msg=module)
    return formats


def opened(tmp_path: Path, name: str) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    case = CASES[name]
    values = made.write_model(tmp_path, case.make, case.quantization)
    return open_checkpoint(tmp_path), values


@pytest.mark.parametrize("name", CASES)
def test_weights_have_the_values_of_the_file(tmp_path: Path, name: str) -> None:
    checkpoint, values = opened(tmp_path, name)
    assert_values(checkpoint.load_params(FLOAT32), values)
    packed = checkpoint.load_params(FLOAT32, backend=Backend.CPU, quantization="auto")
    expected = CASES[name].format or "float32"
    assert assert_values(packed, values) == {expected}
    arrays = checkpoint.load_params(FLOAT32, backend=Backend.GPU, quantization="auto")
    assert assert_values(arrays, values) <= {expected}


@pytest.mark.parametrize("name", CASES)
def test_the_model_computes_what_its_plain_weights_compute(tmp_path: Path, name: str) -> None:
    checkpoint, values = opened(tmp_path, name)
    (tmp_path / "plain").mkdir()
    made.write_plain(tmp_path / "plain", values)
    plain = open_checkpoint(tmp_path / "plain")
    tokens = np.arange(12, dtype=np.int32) * 7 % made.VOCAB
    expected = logits_of(plain.model, plain.load_params(FLOAT32), tokens)
    params = checkpoint.load_params(FLOAT32, backend=Backend.CPU, quantization="auto")
    found = logits_of(checkpoint.model.on(Backend.CPU), params, tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gptq with zeros", "quantize_config.json"),
        ("awq", "quant_config.json"),
        ("fp8 of ModelOpt", "hf_quant_config.json"),
    ],
)
def test_the_quantization_may_have_a_file_of_its_own(tmp_path: Path, name: str, file: str) -> None:
    case = CASES[name]
    values = made.write_model(tmp_path, case.make, case.quantization)
    config = tmp_path / "config.json"
    fields = json.loads(config.read_text())
    own = {k: v for k, v in fields.pop("quantization_config").items() if k != "quant_method"}
    if name == "fp8 of ModelOpt":
        own = {"producer": {"name": "modelopt"}, "quantization": own}
    config.write_text(json.dumps(fields))
    (tmp_path / file).write_text(json.dumps(own))
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.quantized_by == case.quantization["quant_method"]
    assert_values(checkpoint.load_params(FLOAT32), values)


@pytest.mark.parametrize("name", ["int4 in the order of activations", "fp8 in blocks", "mxfp4"])
def test_an_exported_model_has_the_values_to_the_bit(tmp_path: Path, name: str) -> None:
    checkpoint, values = opened(tmp_path, name)
    params = checkpoint.load_params(FLOAT32, backend=Backend.CPU, quantization="auto")
    out = tmp_path / "plain"
    export_huggingface(out, checkpoint.family, checkpoint.config, params, dtype="float32")
    exported = open_checkpoint(out)
    assert exported.quantized_by is None
    assert_values(exported.load_params(FLOAT32), values)


@pytest.mark.parametrize(
    "name", ["int4 with zeros", "int4 in the order of activations", "fp8 in blocks", "mxfp4"]
)
def test_rows_have_the_same_bits_alone_and_together(tmp_path: Path, name: str) -> None:
    checkpoint, _ = opened(tmp_path, name)
    params = checkpoint.load_params(jnp.dtype("bfloat16"), backend=Backend.CPU, quantization="auto")
    model = checkpoint.model.on(Backend.CPU)
    x = jax.random.normal(jax.random.key(0), (9, made.DIM), jnp.bfloat16)
    layer = params["layers"][0]

    def run(x: jax.Array) -> np.ndarray:
        norm = (layer["mlp_norm"], 1e-5)
        found = gated_linear(x, layer["w_gate"], layer["w_up"], norm=norm, backend=model.backend)
        return np.asarray(found, np.float32)

    together = run(x)
    for row in range(9):
        np.testing.assert_array_equal(run(x[row : row + 1]), together[row : row + 1])
