"""Quantized weights as files have them, made from the definitions of the formats, with their
values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

DIM, MLP, VOCAB = 96, 192, 40  # no multiples of 64 and 128, for groups that are not whole
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": DIM,
    "intermediate_size": MLP, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
_NAMES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3",
    "int8": "I8", "uint8": "U8", "int32": "I32", "int64": "I64",
}  # fmt: skip


class Made(NamedTuple):
    """A quantized weight: the tensors of its module by the ends of their names, and its values."""

    tensors: dict[str, np.ndarray]
    values: np.ndarray  # float32 [out, in]


Make = Callable[[tuple[int, int], int], Made]  # (shape [out, in], seed)


def shapes() -> dict[str, tuple[int, int]]:
    """The shapes of a small model's linear layers by module."""
    found = {}
    for layer in range(2):
        attention, mlp = (f"model.layers.{layer}.{part}" for part in ("self_attn", "mlp"))
        found |= {
            f"{attention}.q_proj": (128, DIM), f"{attention}.k_proj": (64, DIM),
            f"{attention}.v_proj": (64, DIM), f"{attention}.o_proj": (DIM, 128),
            f"{mlp}.gate_proj": (MLP, DIM), f"{mlp}.up_proj": (MLP, DIM),
            f"{mlp}.down_proj": (DIM, MLP),
        }  # fmt: skip
    return found


def write(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file: the library's writer for NumPy does not have all dtypes."""
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": _NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def others(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors of the small model that are not quantized."""
    rng = np.random.default_rng(seed)
    names = ["model.norm"]
    for layer in range(2):
        names += [f"model.layers.{layer}.input_layernorm"]
        names += [f"model.layers.{layer}.post_attention_layernorm"]
    found = {f"{name}.weight": rng.normal(1, 0.1, DIM) for name in names}
    for name in ("model.embed_tokens", "lm_head"):
        found[f"{name}.weight"] = rng.normal(0, 0.1, (VOCAB, DIM))
    return {name: value.astype(np.float32) for name, value in found.items()}


def write_model(
    directory: Path,
    make: Make,
    quantization: Mapping[str, Any],
    changed: Mapping[str, np.ndarray | None] | None = None,
) -> dict[str, np.ndarray]:
    """A directory with every linear layer quantized. Returns their values [out, in] by module.

    Args:
      directory: must exist.
      make: makes a weight.
      quantization: the quantization_config.
      changed: tensors to write in place of those made; None drops one.
    """
    tensors, values = others(), {}
    for seed, (module, shape) in enumerate(shapes().items()):
        made = make(shape, seed)
        tensors |= {f"{module}.{end}": value for end, value in made.tensors.items()}
        values[module] = made.values
    kept = {**tensors, **(changed or {})}
    write(directory / "model.safetensors", {k: v for k, v in kept.items() if v is not None})
    config = {**CONFIG, "quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config))
    return values


def write_plain(directory: Path, values: Mapping[str, np.ndarray]) -> None:
    """The same model with plain float32 weights."""
    tensors = others() | {f"{module}.weight": value for module, value in values.items()}
    write(directory / "model.safetensors", tensors)
    (directory / "config.json").write_text(json.dumps(CONFIG))


# ---- Numbers in words --------------------------------------------------------------------------


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers [rows, n] from 0 on in int32 [rows, words], the first in the lowest bits."""
    per_word = 32 // bits
    padded = np.pad(numbers.astype(np.uint64), ((0, 0), (0, -numbers.shape[1] % per_word)))
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(bits)
    words = (padded.reshape(numbers.shape[0], -1, per_word) << shifts).sum(axis=2)
    return words.astype(np.uint32).view(np.int32)


class Drawn(NamedTuple):
    """Random numbers [out, in] with the scales and zeros [out, groups] of their groups."""

    numbers: np.ndarray  # from 0 to 2^bits - 1
    scales: np.ndarray
    zeros: np.ndarray
    groups_of: np.ndarray  # [in]
    values: np.ndarray


def draw(
    shape: tuple[int, int],
    seed: int,
    *,
    bits: int,
    group: int,
    symmetric: bool,
    dtype: Any,
    shuffled: bool = False,
) -> Drawn:
    """Draws a weight.

    Args:
      shape: [out, in].
      seed: of the generator.
      bits: of a number.
      group: inputs that share a scale, -1 for all.
      symmetric: all zeros are in the middle.
      dtype: of the scales.
      shuffled: inputs belong to groups in any order.
    """
    rng = np.random.default_rng([seed, *shape])
    group = shape[1] if group == -1 else group
    numbers = rng.integers(0, 1 << bits, shape)
    groups_of = np.arange(shape[1]) // group
    if shuffled:
        rng.shuffle(groups_of)
    count = -(-shape[1] // group)
    scales = (rng.uniform(0.5, 2, (shape[0], count)) * 0.2 / (1 << bits)).astype(dtype)
    middle = 1 << (bits - 1)
    zeros = rng.integers(0, 1 << bits, (shape[0], count))
    zeros = np.full_like(zeros, middle) if symmetric else zeros
    values = (numbers - zeros[:, groups_of]).astype(np.float32)
    return Drawn(
        numbers, scales, zeros, groups_of, values * scales[:, groups_of].astype(np.float32)
    )


# ---- Formats -----------------------------------------------------------------------------------


def compressed(strategy: str = "group", **weights: Any) -> dict[str, Any]:
    """The quantization_config of compressed-tensors."""
    args = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": strategy, **weights}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args}},
        "ignore": ["lm_head"],
    }


def packed_integers(**given: Any) -> Make:
    """compressed-tensors' pack-quantized; arguments as in `draw`."""

    def make(shape: tuple[int, int], seed: int) -> Made:
        drawn = draw(shape, seed, **given)
        tensors = {
            "weight_packed": pack(drawn.numbers, given["bits"]),
            "weight_scale": drawn.scales,
            "weight_shape": np.array(shape),
        }
        if not given["symmetric"]:
            tensors["weight_zero_point"] = pack(drawn.zeros.T, given["bits"]).T
        if given.get("shuffled"):
            tensors["weight_g_idx"] = drawn.groups_of.astype(np.int32)
        return Made(tensors, drawn.values)

    return make


def plain_integers(**given: Any) -> Make:
    """compressed-tensors' int-quantized."""

    def make(shape: tuple[int, int], seed: int) -> Made:
        drawn = draw(shape, seed, bits=8, **given)
        tensors = {
            "weight": (drawn.numbers - 128).astype(np.int8),
            "weight_scale": drawn.scales,
            "input_scale": np.ones(1, np.float32),
        }
        if not given["symmetric"]:
            tensors["weight_zero_point"] = (drawn.zeros - 128).astype(np.int8)
        return Made(tensors, drawn.values)

    return make


def awq(group: int, dtype: Any = np.float16) -> Make:
    """AWQ's gemm version."""

    def interleaved(numbers: np.ndarray) -> np.ndarray:
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        return pack(numbers.reshape(-1, 8)[:, order].reshape(numbers.shape), 4)

    def make(shape: tuple[int, int], seed: int) -> Made:
        drawn = draw(shape, seed, bits=4, group=group, symmetric=False, dtype=dtype)
        tensors = {
            "qweight": interleaved(drawn.numbers.T),
            "qzeros": interleaved(drawn.zeros.T),
            "scales": np.ascontiguousarray(drawn.scales.T),
        }
        return Made(tensors, drawn.values)

    return make


def gptq(
    bits: int, group: int, *, symmetric: bool, version: int = 1, shuffled: bool = False
) -> Make:
    """GPTQ's two versions."""

    def make(shape: tuple[int, int], seed: int) -> Made:
        drawn = draw(
            shape, seed, bits=bits, group=group, symmetric=symmetric, dtype=np.float16,
            shuffled=shuffled,
        )  # fmt: skip
        zeros = drawn.zeros - 1 & (1 << bits) - 1 if version == 1 else drawn.zeros
        tensors = {
            "qweight": pack(drawn.numbers, bits).T,
            "qzeros": pack(zeros.T, bits),
            "scales": np.ascontiguousarray(drawn.scales.T),
            "g_idx": drawn.groups_of.astype(np.int32),
            "bias": np.zeros(shape[0], np.float16),  # as old writers add to every layer
        }
        return Made(tensors, drawn.values)

    return make


def float8(name: str, block: tuple[int, int] | None = None, *, by_output: bool = False) -> Make:
    """Floats of eight bits with scales of a name: for blocks, each output, or the whole."""

    def make(shape: tuple[int, int], seed: int) -> Made:
        rng = np.random.default_rng([seed, *shape])
        bits = rng.integers(0, 256, shape).astype(np.uint8)
        bits[bits & 0x7F == 0x7F] = 0  # NaN
        numbers = bits.view(ml_dtypes.float8_e4m3fn)
        rows, columns = block or (1 if by_output else shape[0], shape[1])
        count = (-(-shape[0] // rows), -(-shape[1] // columns))
        scales = (rng.uniform(0.5, 2, count) * 1e-3).astype(np.float32)
        wide = np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)
        values = numbers.astype(np.float32) * wide[: shape[0], : shape[1]]
        stored = scales if block or by_output else scales.reshape(())
        return Made({"weight": numbers, name: stored}, values)

    return make


def mxfp4(low: str, high: str, *, by_block: bool) -> Make:
    """MXFP4 with tensors of these names."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)

    def make(shape: tuple[int, int], seed: int) -> Made:
        rng = np.random.default_rng([seed, *shape])
        numbers = rng.integers(0, 16, shape).astype(np.uint8)
        exponents = rng.integers(118, 126, (shape[0], shape[1] // 32)).astype(np.uint8)
        signed = table[numbers & 7] * np.where(numbers & 8, np.float32(-1), np.float32(1))
        powers = np.float32(2) ** (np.repeat(exponents, 32, axis=1).astype(np.float32) - 127)
        packed = numbers[:, ::2] | numbers[:, 1::2] << 4
        blocks = packed.reshape(shape[0], -1, 16) if by_block else packed
        return Made({low: blocks, high: exponents}, signed * powers)

    return make
