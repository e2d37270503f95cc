"""Quantized weights as plain arrays hold what packed ones hold, whole or in a mesh's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear, QuantizedLinear, unpack
from flaxen.kernels.linear.weight import num_bytes
from flaxen.models.layout import lay_params
from flaxen.sharding.parts import Box
from flaxen.tensors.packing.arrays import fill_parts, put_parts
from flaxen.tensors.packing.pack import Quantization
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.form import Form
from flaxen.weights.gguf.reader import read_gguf
from tests.mesh.meshes import placement
from tests.models.golden import GOLDENS, expected, logits_of
from tests.tensors.packing.test_pack import STORED, assert_same_bits, llama
from tests.weights.files import Kind, random_blocks, write_gguf

FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
OTHERS = (Backend.REFERENCE, Backend.GPU, Backend.TPU)
MIXED = {
    "token_embd": Kind.Q8_0, "blk.0.attn_q": Kind.Q4_K, "blk.0.attn_k": Kind.Q5_0,
    "blk.0.ffn_gate": Kind.Q4_0, "blk.0.ffn_up": Kind.Q6_K, "blk.0.ffn_down": Kind.Q4_1,
}  # fmt: skip


def is_weight(leaf: Any) -> bool:
    return isinstance(leaf, PackedLinear | QuantizedLinear)


def flat(params: Any) -> list[Any]:
    return jax.tree.leaves(params, is_leaf=is_weight)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("num_rows", [1, 33])
def test_stored_blocks_are_kept_without_loss(tmp_path: Path, kind: Kind, num_rows: int) -> None:
    blocks = random_blocks(kind, (num_rows, 768))
    metadata = {"general.architecture": "llama"}
    write_gguf(tmp_path / "m.gguf", metadata, {"t": blocks}, {"t": kind})
    quantized = read_gguf(tmp_path / "m.gguf").tensors["t"].quantized
    assert quantized is not None
    pieces = [(i, quantized.read(i, min(i + 16, num_rows))) for i in range(0, num_rows, 16)]
    shape = (768, num_rows)
    parts = fill_parts(shape, quantized.layout, [Box((0, 0), shape)], pieces)
    weight = put_parts(parts, shape, quantized.layout, None, None)
    assert (weight.shape, weight.group) == (shape, 32)
    assert_same_bits(unpack(weight).T, gguf.quants.dequantize(blocks, kind))


@pytest.mark.parametrize("backend", [Backend.GPU, Backend.TPU])
def test_a_gguf_file_is_kept_as_the_cpu_keeps_it(tmp_path: Path, backend: Backend) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", MIXED)
    kept = checkpoint.load_params(BFLOAT16, backend=backend, quantization="auto")
    packed = checkpoint.load_params(BFLOAT16, backend=Backend.CPU, quantization="auto")
    plain = checkpoint.load_params(BFLOAT16)
    formats = []
    for ours, theirs, array in zip(flat(kept), flat(packed), flat(plain), strict=True):
        if isinstance(ours, QuantizedLinear):
            assert_same_bits(unpack(ours), unpack(theirs))
            assert ours.format == theirs.format
            formats.append(ours.format)
        else:
            assert_same_bits(ours, array)
    assert sorted(formats) == ["int4"] * 3 + ["int8"] * 2


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantizing_gives_the_values_that_the_cpu_has(
    tmp_path: Path, backend: Backend, quantization: Quantization
) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", {"blk.0.ffn_up": Kind.Q6_K})
    ours = checkpoint.load_params(BFLOAT16, backend=backend, quantization=quantization)
    theirs = checkpoint.load_params(BFLOAT16, backend=Backend.CPU, quantization=quantization)
    matrices = [leaf for leaf in flat(ours) if isinstance(leaf, QuantizedLinear)]
    assert [leaf.format for leaf in matrices].count(quantization) >= 7
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        if is_weight(other):
            assert one.format == other.format
            assert_same_bits(unpack(one), unpack(other))


def test_the_reference_expands_what_a_file_has_quantized(tmp_path: Path) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", MIXED)
    params = checkpoint.load_params(BFLOAT16, quantization="auto")
    assert not any(isinstance(leaf, QuantizedLinear) for leaf in flat(params))


@pytest.mark.parametrize("quantization", ["auto", "none", "int8", "int4"])
def test_the_bytes_are_known_before_loading(tmp_path: Path, quantization: Quantization) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", MIXED)
    form = Form(dtype=BFLOAT16, backend=Backend.GPU, quantization=quantization)
    params = checkpoint.load_params(BFLOAT16, backend=Backend.GPU, quantization=quantization)
    assert checkpoint.num_param_bytes(form) == num_bytes(params)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(
    ("case", "quantization"), [("llama_default", "int8"), ("llama_tied_biases", "int4")]
)
def test_logits_are_those_of_the_values(
    case: str, backend: Backend, quantization: Quantization
) -> None:
    checkpoint, (tokens, _) = open_checkpoint(GOLDENS / case), expected(case)
    params = checkpoint.load_params(FLOAT32, backend=backend, quantization=quantization)
    specs = checkpoint.model.param_specs

    def values(spec: Any, leaf: Any) -> Any:
        if not isinstance(leaf, QuantizedLinear):
            return leaf
        return unpack(leaf).T if spec.role == "table" else unpack(leaf)

    leaves, structure = jax.tree.flatten(specs, is_leaf=lambda leaf: hasattr(leaf, "role"))
    held = structure.flatten_up_to(params)
    assert sum(isinstance(leaf, QuantizedLinear) for leaf in held) > 7
    plain = structure.unflatten(map(values, leaves, held))
    ours = logits_of(checkpoint.model.on(backend), params, tokens)
    theirs = logits_of(checkpoint.model, plain, tokens)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("mesh", ["tensor=2,fsdp=2", "tensor=4,data=2", "fsdp=8"])
@pytest.mark.parametrize("quantization", ["auto", "int8", "int4"])
def test_parts_are_those_of_the_whole(
    tmp_path: Path, mesh: str, quantization: Quantization
) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", MIXED)
    on = placement(mesh)
    whole = checkpoint.load_params(FLOAT32, backend=Backend.GPU, quantization=quantization)
    parts = checkpoint.load_params(
        FLOAT32, backend=Backend.GPU, quantization=quantization, placement=on
    )
    moved = lay_params(checkpoint.model.param_specs, whole, on)
    assert jax.tree.structure(parts) == jax.tree.structure(moved)
    for one, other, array in zip(*map(jax.tree.leaves, (parts, whole, moved)), strict=True):
        assert_same_bits(one, other)
        assert one.sharding.is_equivalent_to(array.sharding, one.ndim)
    down = parts["layers"][0]["w_down"]
    assert down.placement == on
    shards = on.shape.tensor * on.shape.fsdp
    assert {each.data.size for each in down.data.addressable_shards} == {down.data.size // shards}


def test_groups_are_not_cut() -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama_default")
    assert checkpoint.model.param_specs["layers"][0]["wo"].shape[0] // 32 == 2
    message = (
        r"o_proj.*can't be quantized: its inputs are 2 groups with scales of their own, which 4 "
        r"devices along tensor can't share in equal parts: use fewer devices there, or load it "
        "with quantization int8 or none"
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(FLOAT32, quantization="int4", placement=placement("tensor=4"))
