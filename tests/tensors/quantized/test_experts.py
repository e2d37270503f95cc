"""Experts of quantized checkpoints: the tensors of each become one stack with their values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import LinearWeight, unpack
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import logits_of
from tests.tensors.quantized import made

FLOAT32 = jnp.dtype("float32")
EXPERTS = 3
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2, "sliding_window": None,
}  # fmt: skip
QWEN = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": EXPERTS,
    "num_experts_per_tok": 2, "norm_topk_prob": True, "moe_intermediate_size": made.MLP,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip


class Names(NamedTuple):
    """What a family's tensors are called, within a layer."""

    fields: dict[str, Any]  # of config.json
    mlp: str
    gate: str
    up: str
    down: str

    def module(self, layer: int, expert: int, part: str) -> str:
        return f"model.layers.{layer}.{self.mlp}.experts.{expert}.{part}"


FAMILIES = {
    "mixtral": Names(MIXTRAL, "block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": Names(QWEN, "mlp", "gate_proj", "up_proj", "down_proj"),
}


class Case(NamedTuple):
    """A format, its configuration, and what a stack of its weights becomes."""

    family: str
    make: made.Make
    quantization: dict[str, Any]
    format: str | None  # None: floats


INT4 = {"bits": 4, "group": 32, "symmetric": True, "dtype": ml_dtypes.bfloat16}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
CASES = {
    "int4 of compressed-tensors": Case(
        "mixtral", made.packed_integers(**INT4), made.compressed(group_size=32), "int4"
    ),
    "awq": Case(
        "qwen3_moe", made.awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32}, "int4"
    ),
    "gptq": Case("mixtral", made.gptq(4, 32, symmetric=True), {**GPTQ, "sym": True}, "int4"),
    "gptq in the order of activations": Case(
        "mixtral",
        made.gptq(4, 32, symmetric=False, shuffled=True),
        {**GPTQ, "sym": False, "desc_act": True},
        None,
    ),
    "fp8 in blocks": Case(
        "qwen3_moe",
        made.float8("weight_scale_inv", (32, 64)),
        {"quant_method": "fp8", "weight_block_size": [32, 64]},
        "float8",
    ),
}


def write(directory: Path, case: Case, *, is_quantized: bool) -> dict[str, np.ndarray]:
    """Writes a model. Returns the values [out, in] of its quantized weights by module."""
    names = FAMILIES[case.family]
    shapes = {name: shape for name, shape in made.shapes().items() if "self_attn" in name}
    tensors = made.others()
    rng = np.random.default_rng(1)
    for layer in range(2):
        router = rng.normal(0, 1, (EXPERTS, made.DIM)).astype(np.float32)
        tensors[f"model.layers.{layer}.{names.mlp}.gate.weight"] = router
        if case.family == "qwen3_moe":
            for end in ("q_norm", "k_norm"):
                norm = rng.normal(1, 0.1, made.CONFIG["head_dim"]).astype(np.float32)
                tensors[f"model.layers.{layer}.self_attn.{end}.weight"] = norm
        for expert in range(EXPERTS):
            shapes |= {
                names.module(layer, expert, part): (made.MLP, made.DIM)
                for part in (names.gate, names.up)
            }
            shapes[names.module(layer, expert, names.down)] = (made.DIM, made.MLP)
    values = {}
    for seed, (module, shape) in enumerate(shapes.items()):
        weight = case.make(shape, seed)
        values[module] = weight.values
        own = weight.tensors if is_quantized else {"weight": weight.values}
        tensors |= {f"{module}.{end}": value for end, value in own.items()}
    made.write(directory / "model.safetensors", tensors)
    fields = {**made.CONFIG, **names.fields}
    if is_quantized:
        fields["quantization_config"] = case.quantization
    (directory / "config.json").write_text(json.dumps(fields))
    return values


def assert_stacks(params: Any, names: Names, values: Mapping[str, np.ndarray]) -> set[str]:
    """Each stack [E, in, out] has the values of the file. Returns the formats."""
    formats = set()
    for number, layer in enumerate(params["layers"]):
        for part in ("gate", "up", "down"):
            leaf = layer[f"w_experts_{part}"]
            is_packed = isinstance(leaf, LinearWeight)
            formats.add(leaf.format if is_packed else leaf.dtype.name)
            modules = [names.module(number, e, getattr(names, part)) for e in range(EXPERTS)]
            expected = np.stack([values[module].T for module in modules])
            np.testing.assert_array_equal(unpack(leaf) if is_packed else leaf, expected)
    return formats


@pytest.mark.parametrize("name", CASES)
def test_experts_have_the_values_of_the_file(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    for directory in ("quantized", "plain"):
        (tmp_path / directory).mkdir()
    values = write(tmp_path / "quantized", case, is_quantized=True)
    checkpoint = open_checkpoint(tmp_path / "quantized")
    names, expected = FAMILIES[case.family], {case.format or "float32"}
    assert_stacks(checkpoint.load_params(FLOAT32), names, values)
    arrays = checkpoint.load_params(FLOAT32, backend=Backend.GPU, quantization="auto")
    assert assert_stacks(arrays, names, values) <= expected
    packed = checkpoint.load_params(FLOAT32, backend=Backend.CPU, quantization="auto")
    assert assert_stacks(packed, names, values) == expected

    write(tmp_path / "plain", case, is_quantized=False)
    plain = open_checkpoint(tmp_path / "plain")
    tokens = np.arange(12, dtype=np.int32) * 7 % made.VOCAB
    whole = logits_of(plain.model, plain.load_params(FLOAT32), tokens)
    found = logits_of(checkpoint.model.on(Backend.CPU), packed, tokens)
    np.testing.assert_allclose(found, whole, atol=2e-5, rtol=0)
