"""Packed parameters hold what the file holds: to the bit, or to the step of the quantization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import PackedLinear, pack, unpack
from flaxen.tensors.packing.layout import Layout
from flaxen.tensors.packing.memory import WeightMemory
from flaxen.tensors.packing.pack import Packing, Quantization
from flaxen.tensors.packing.quantize import (
    float4_layout,
    float8_layout,
    int4_layout,
    int8_layout,
)
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.gguf.reader import read_gguf
from tests.models.golden import GOLDENS
from tests.weights.files import (
    Kind,
    change_tensors,
    copy_golden,
    golden_metadata,
    golden_tensors,
    random_blocks,
    write_gguf,
)

FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
STORED = {
    Kind.Q4_0: "int4", Kind.Q4_1: "int4", Kind.Q8_0: "int8", Kind.Q4_K: "int4", Kind.Q5_0: "int8",
    Kind.Q5_1: "int8", Kind.Q5_K: "int8", Kind.IQ4_NL: "int8", Kind.MXFP4: "float4",
}  # fmt: skip


def packed_of(rows: np.ndarray, layout: Layout, step: int = 16) -> PackedLinear:
    """Rows [out, in] packed by this room, in pieces."""
    packing = Packing((rows.shape[0], rows.shape[1]), layout, WeightMemory())
    for start in range(0, rows.shape[0], step):
        packing.write_floats(start, rows[start : start + step])
    return packing.finish(jax.device_put)


def assert_same_bits(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert np.ascontiguousarray(ours).tobytes() == np.ascontiguousarray(theirs).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(16, 32), (48, 64), (37, 45), (5, 7), (17, 33), (64, 1)])
def test_floats_lie_where_the_kernels_expect_them(
    shape: tuple[int, int], order: Any, dtype: type
) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(dtype, order=order)
    name: Any = np.dtype(dtype).name
    ours, theirs = packed_of(rows, Layout(format=name), step=32), pack(jnp.asarray(rows.T))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert_same_bits(ours.data, theirs.data)
    assert_same_bits(unpack(ours), rows.T)


def walk(params: Any, specs: Any) -> list[tuple[str, Any, tuple[int, ...]]]:
    """Each parameter with its name and its spec's shape."""
    top = [(name, params[name], specs[name].shape) for name in specs if name != "layers"]
    pairs = zip(params["layers"], specs["layers"], strict=True)
    return top + [(n, layer[n], spec[n].shape) for layer, spec in pairs for n in spec]


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(
    "case", ["llama_default", "llama_tied_biases", "qwen2_biases", "qwen3_tied", "quantized"]
)
def test_packed_parameters_are_the_plain_ones(tmp_path: Path, case: str, dtype: Any) -> None:
    path = GOLDENS / case
    if case == "quantized":  # and dequantized, with interleaved heads put back in order
        kinds = {"blk.0.attn_q.weight": Kind.Q8_0, "blk.1.attn_k.weight": Kind.Q4_1}
        metadata = golden_metadata("llama_default")
        path = write_gguf(tmp_path / "m.gguf", metadata, golden_tensors("llama_default"), kinds)
    checkpoint = open_checkpoint(path)
    specs = checkpoint.model.param_specs
    plain = walk(checkpoint.load_params(dtype), specs)
    packed = walk(checkpoint.load_params(dtype, backend=Backend.CPU), specs)
    for (name, ours, shape), (_, theirs, _) in zip(packed, plain, strict=True):
        if len(shape) == 1:
            assert_same_bits(ours, theirs)
        elif name in ("embed", "unembed"):
            assert ours.shape == shape[::-1]
            assert_same_bits(unpack(ours), theirs.T)
        else:
            assert ours.shape == shape
            assert_same_bits(unpack(ours), theirs)


def llama(path: Path, matrices: dict[str, Kind]) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """A model whose rows are long enough for every type: random blocks, or floats."""
    d, q, kv, f, v = 512, 256, 128, 256, 40
    shapes = {
        "token_embd": (v, d), "output": (v, d), "blk.0.attn_q": (q, d), "blk.0.attn_k": (kv, d),
        "blk.0.attn_v": (kv, d), "blk.0.attn_output": (d, q), "blk.0.ffn_gate": (f, d),
        "blk.0.ffn_up": (f, d), "blk.0.ffn_down": (d, f),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    norms = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
    tensors = {f"{n}.weight": rng.normal(size=d).astype(np.float32) for n in norms}
    kinds = {}
    for name, shape in shapes.items():
        if name in matrices:
            kinds[f"{name}.weight"] = matrices[name]
            tensors[f"{name}.weight"] = random_blocks(matrices[name], shape)
        else:
            tensors[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
    own = {
        "embedding_length": d, "feed_forward_length": f, "block_count": 1, "context_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 64,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    metadata = {"general.architecture": "llama", **{f"llama.{k}": n for k, n in own.items()}}
    return open_checkpoint(write_gguf(path, metadata, tensors, kinds)), tensors


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("num_rows", [1, 16, 33])
def test_stored_blocks_are_kept_without_loss(tmp_path: Path, kind: Kind, num_rows: int) -> None:
    blocks = random_blocks(kind, (num_rows, 768))
    metadata = {"general.architecture": "llama"}
    write_gguf(tmp_path / "m.gguf", metadata, {"t": blocks}, {"t": kind})
    quantized = read_gguf(tmp_path / "m.gguf").tensors["t"].quantized
    assert quantized is not None
    packing = Packing((num_rows, 768), quantized.layout, WeightMemory())
    for start in range(0, num_rows, 16):
        packing.write(start, quantized.read(start, min(start + 16, num_rows)))
    packed = packing.finish(jax.device_put)
    assert (packed.format, packed.group) == (STORED[kind], 32)
    assert_same_bits(unpack(packed).T, gguf.quants.dequantize(blocks, kind))


@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16])
def test_auto_keeps_what_can_be_kept(tmp_path: Path, dtype: Any) -> None:
    kinds = {
        "token_embd": Kind.Q8_0, "output": Kind.Q6_K, "blk.0.attn_q": Kind.Q4_K,
        "blk.0.attn_k": Kind.Q8_0, "blk.0.attn_v": Kind.Q5_K, "blk.0.ffn_gate": Kind.Q4_0,
        "blk.0.ffn_down": Kind.Q4_1,
    }  # fmt: skip
    checkpoint, tensors = llama(tmp_path / "m.gguf", kinds)
    params = checkpoint.load_params(dtype, backend=Backend.CPU, quantization="auto")
    rounded = checkpoint.load_params(dtype, backend=Backend.CPU)
    layer, floats = params["layers"][0], rounded["layers"][0]
    formats = {name: w.format for name, w in layer.items() if isinstance(w, PackedLinear)}
    assert formats == {
        "wq": "int4", "wk": "int8", "wv": "int8", "wo": dtype.name, "w_gate": "int4",
        "w_up": dtype.name, "w_down": "int4",
    }  # fmt: skip
    assert (params["embed"].format, params["unembed"].format) == ("int8", dtype.name)
    for name in ("wo", "w_up"):
        assert_same_bits(layer[name].data, floats[name].data)
    for name in ("attn_norm", "mlp_norm"):
        assert_same_bits(layer[name], floats[name])

    def stored(name: str, heads: int = 0) -> np.ndarray:
        rows = gguf.quants.dequantize(tensors[f"{name}.weight"], kinds[name])
        if heads:  # llama's files interleave the halves of each head
            rows = rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
        return rows.T

    assert_same_bits(unpack(params["embed"]), stored("token_embd"))
    assert_same_bits(unpack(layer["wq"]), stored("blk.0.attn_q", heads=4))
    assert_same_bits(unpack(layer["wk"]), stored("blk.0.attn_k", heads=2))
    assert_same_bits(unpack(layer["w_gate"]), stored("blk.0.ffn_gate"))
    assert_same_bits(unpack(layer["w_down"]), stored("blk.0.ffn_down"))


@pytest.mark.parametrize("shape", [(16, 32), (37, 45), (33, 576)])
def test_int8_is_off_by_half_a_step_at_most(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows[3] = 0
    rows[4] *= 1e-12  # far below what float16 holds
    packed = packed_of(rows, int8_layout(-(-shape[1] // 32) * 32))
    assert (packed.format, packed.group, packed.mins) == ("int8", -(-shape[1] // 32) * 32, None)
    steps = np.abs(rows).max(axis=1, keepdims=True) / 127
    values = np.asarray(unpack(packed)).T
    assert (np.abs(values - rows) <= steps * np.float32(0.50001)).all()
    assert not values[3].any()
    np.testing.assert_allclose(np.abs(values).max(axis=1), np.abs(rows).max(axis=1), rtol=1e-6)


def test_int8_weights_come_back_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    stored = rng.integers(-127, 128, (32, 64)).astype(np.float32)
    stored[:, 5] = rng.choice([-127, 127], 32)
    rows = stored * np.exp2(rng.integers(-9, 3, (32, 1))).astype(np.float32)
    assert_same_bits(unpack(packed_of(rows, int8_layout(64))).T, rows)


@pytest.mark.parametrize("shape", [(16, 32), (37, 45), (33, 576)])
def test_int4_is_off_by_half_a_step_at_most(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(3).normal(2, 1, size=shape).astype(np.float32)
    rows[3] = 0.75  # a group without any spread
    packed = packed_of(rows, int4_layout())
    assert (packed.format, packed.group) == ("int4", 32)
    assert packed.scales is not None
    assert packed.scales.dtype == jnp.float16
    padded = np.pad(rows, ((0, 0), (0, -shape[1] % 32)))
    groups = padded.reshape(shape[0], -1, 32)
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    values = np.pad(np.asarray(unpack(packed)).T, ((0, 0), (0, -shape[1] % 32)))
    # Half a step, and where the scale and min were rounded to float16 (11 bits) an end may lie
    # outside of what the sixteen numbers reach.
    bound = (high - low) / 30 + (high - low + np.abs(low)) * 2.0**-11
    errors = np.abs(values.reshape(groups.shape) - groups).reshape(padded.shape)
    allowed = np.broadcast_to(bound, groups.shape).reshape(padded.shape)
    assert (errors <= allowed)[:, : shape[1]].all()
    if shape[1] % 32 == 0:
        assert (values[3] == 0.75).all()


def test_int4_weights_come_back_to_the_bit() -> None:
    rng = np.random.default_rng(4)
    stored = rng.integers(0, 16, (32, 4, 32)).astype(np.float32)
    stored[:, :, 7], stored[:, :, 9] = 0, 15
    scales = rng.integers(1, 64, (32, 4, 1)).astype(np.float32) * np.float32(2.0**-8)
    rows = (stored * scales - np.float32(2)).reshape(32, 128)
    assert_same_bits(unpack(packed_of(rows, int4_layout())).T, rows)


@pytest.mark.parametrize("shape", [(16, 32), (37, 45), (33, 576)])
def test_fp8_is_off_by_a_sixteenth_at_most(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    rows[3] = 0
    packed = packed_of(rows, float8_layout(-(-shape[1] // 32) * 32))
    assert (packed.format, packed.mins) == ("float8", None)
    values = np.asarray(unpack(packed)).T
    # Three bits after the first; the smallest numbers have steps of 2^-9 of 448.
    steps = np.abs(rows).max(axis=1, keepdims=True) / 448 * 2.0**-10
    assert (np.abs(values - rows) <= np.abs(rows) / 15.9 + steps * 1.01).all()
    assert not values[3].any()
    np.testing.assert_allclose(np.abs(values).max(axis=1), np.abs(rows).max(axis=1), rtol=1e-6)


@pytest.mark.parametrize("shape", [(16, 32), (37, 45), (33, 576)])
def test_mxfp4_takes_the_nearest_of_its_numbers(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    rows[3] = 0
    packed = packed_of(rows, float4_layout())
    assert (packed.format, packed.group, packed.scales.dtype) == ("float4", 32, jnp.uint8)
    values = np.asarray(unpack(packed)).T
    padded = np.pad(rows, ((0, 0), (0, -shape[1] % 32)))
    largest = np.abs(padded.reshape(shape[0], -1, 32)).max(axis=2, keepdims=True)
    powers = np.exp2(np.floor(np.log2(np.maximum(largest, 1e-30))) - 2)
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    scaled = np.abs(padded.reshape(shape[0], -1, 32)) / powers
    best = np.abs(scaled[..., None] - grid).min(axis=-1) * powers
    best = best.reshape(padded.shape)[:, : shape[1]]
    np.testing.assert_allclose(np.abs(values - rows), best, atol=1e-6)


def test_mxfp4_rounds_half_way_to_even() -> None:
    numbers = [6, 5, 3.5, 2.5, 1.75, 1.25, 0.75, 0.25, 0, -5, -0.25, -0.75, *[0] * 20]
    rows = np.array([numbers], np.float32) * 4
    values = np.asarray(unpack(packed_of(rows, float4_layout()))).T[0, :12] / 4
    assert values.tolist() == [6, 4, 4, 2, 2, 1, 1, 0, 0, -4, 0, -1]


@pytest.mark.parametrize(
    ("quantization", "matrix"),
    [("int8", "int8"), ("int4", "int4"), ("fp8", "float8"), ("mxfp4", "float4")],
)
def test_tables_become_int8(quantization: Quantization, matrix: str) -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama_default")
    params = checkpoint.load_params(BFLOAT16, backend=Backend.CPU, quantization=quantization)
    assert {params["embed"].format, params["unembed"].format} == {"int8"}
    for layer in params["layers"]:
        formats = [w.format for w in layer.values() if isinstance(w, PackedLinear)]
        assert formats == [matrix] * 7
        assert layer["attn_norm"].dtype == BFLOAT16


def test_quantizing_starts_from_the_model_that_the_file_means(tmp_path: Path) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", {"blk.0.ffn_up": Kind.Q6_K})
    plain = checkpoint.load_params(FLOAT32)["layers"][0]
    packed = checkpoint.load_params(BFLOAT16, backend=Backend.CPU, quantization="int8")["layers"][0]
    for name in ("w_up", "w_gate"):  # rounded to bfloat16, as every reader of the file sees them
        ours = packed_of(np.asarray(plain[name]).T, int8_layout(512))
        assert_same_bits(packed[name].data, ours.data)
        assert_same_bits(packed[name].scales, ours.scales)


@pytest.mark.parametrize(
    ("value", "quantization", "message"),
    [
        (np.nan, "int8", "reach from nan to nan, which int8 with float32 scales can't hold"),
        (np.inf, "int8", "to inf, which int8"),
        (-np.inf, "int4", "reach from -inf to .*, which int4 with float16 scales can't hold"),
        (1e6, "int4", r"to 1e\+06, which int4 with float16 scales can't hold: load it with quant"),
    ],
)
def test_weights_that_no_scale_can_hold(
    tmp_path: Path, value: float, quantization: Quantization, message: str
) -> None:
    copy_golden("llama_linear", tmp_path)
    weight = np.ones((16, 32), np.float32)
    weight[5, 6] = value
    change_tensors(tmp_path, model__layers__1__self_attn__k_proj__weight=weight)
    checkpoint = open_checkpoint(tmp_path)
    name = r"tensor model\.layers\.1\.self_attn\.k_proj\.weight can't be quantized: its values"
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        checkpoint.load_params(FLOAT32, backend=Backend.CPU, quantization=quantization)
    packed = checkpoint.load_params(FLOAT32, backend=Backend.CPU)["layers"][1]["wk"]
    assert_same_bits(unpack(packed), weight.T)


@pytest.mark.parametrize(
    ("dtype", "form", "message"),
    [
        (
            "float16",
            {"backend": Backend.CPU},
            "dtype float16 is not supported: use float32, bfloat16$",
        ),
        ("bfloat16", {"quantization": "q4"}, "quantization 'q4' is not supported: use one of auto"),
    ],
)
def test_forms_that_are_refused(dtype: str, form: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_checkpoint(GOLDENS / "llama_default").load_params(jnp.dtype(dtype), **form)


def test_plain_arrays_with_auto_are_dequantized(tmp_path: Path) -> None:
    checkpoint, _ = llama(tmp_path / "m.gguf", {"blk.0.ffn_up": Kind.Q4_0})
    auto = checkpoint.load_params(BFLOAT16, quantization="auto")
    jax.tree.map(assert_same_bits, auto, checkpoint.load_params(BFLOAT16))
