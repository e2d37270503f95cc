"""Writes small GGUF files and checkpoints: shared by the tests of this room."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models.golden import GOLDENS

Kind = gguf.GGMLQuantizationType
STRING, ARRAY = 8, 9


def copy_golden(case: str, directory: Path) -> Path:
    """A checkpoint of its own to damage."""
    for name in ("config.json", "model.safetensors"):
        (directory / name).write_bytes((GOLDENS / case / name).read_bytes())
    return directory


def change_config(directory: Path, **fields: Any) -> None:
    """Sets fields of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(directory: Path, **tensors: np.ndarray | None) -> None:
    """Sets tensors of model.safetensors, with "__" for each dot of a name; None drops one."""
    path = directory / "model.safetensors"
    held: dict[str, Any] = load_file(path)
    held.update({name.replace("__", "."): value for name, value in tensors.items()})
    save_file({name: value for name, value in held.items() if value is not None}, path)


def golden_metadata(case: str) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for a golden (rope apart)."""
    hf = json.loads((GOLDENS / case / "config.json").read_text())
    architecture = {"mistral": "llama"}.get(hf["model_type"], hf["model_type"])
    own = {
        "vocab_size": hf["vocab_size"],
        "block_count": hf["num_hidden_layers"],
        "context_length": hf["max_position_embeddings"],
        "embedding_length": hf["hidden_size"],
        "feed_forward_length": hf["intermediate_size"],
        "attention.head_count": hf["num_attention_heads"],
        "attention.head_count_kv": hf["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": hf["rms_norm_eps"],
        "rope.freq_base": hf["rope_parameters"]["rope_theta"],
    }
    if hf.get("head_dim"):
        own |= {"attention.key_length": hf["head_dim"], "attention.value_length": hf["head_dim"]}
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in own.items()},
    }


def golden_tensors(case: str) -> dict[str, np.ndarray]:
    """A golden's tensors by their GGUF names, query and key rows permuted as the converter does."""
    hf = json.loads((GOLDENS / case / "config.json").read_text())
    kind = {"mistral": "LLAMA"}.get(hf["model_type"], hf["model_type"].upper())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind], hf["num_hidden_layers"])
    tensors = {}
    for name, value in load_file(GOLDENS / case / "model.safetensors").items():
        found = names.get_name(name, (".weight", ".bias"))
        assert found is not None
        if hf["model_type"] in ("llama", "mistral") and ("q_proj" in name or "k_proj" in name):
            heads = hf["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            rows = value.reshape(heads, 2, -1, *value.shape[1:])
            value = np.ascontiguousarray(rows.swapaxes(1, 2).reshape(value.shape))
        tensors[found] = value
    return tensors


_SCALES = {  # the bytes of a block at which a float16 lies
    Kind.Q4_0: (0,), Kind.Q4_1: (0, 2), Kind.Q8_0: (0,), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,), Kind.Q5_0: (0,), Kind.Q5_1: (0, 2), Kind.IQ4_NL: (0,), Kind.Q2_K: (80, 82),
    Kind.Q3_K: (108,), Kind.IQ4_XS: (0,),
}  # fmt: skip


def random_blocks(kind: Kind, shape: tuple[int, int]) -> np.ndarray:
    """Rows of blocks for a tensor of this shape: uint8, any bits.

    The scales of the types in _SCALES are finite.
    """
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng((int(kind), *shape))
    blocks = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    for offset in _SCALES.get(kind, ()):
        scales = rng.normal(0, 0.1, (*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., offset : offset + 2] = scales.view(np.uint8)
    if kind == Kind.MXFP4:  # exponents; float32 has few numbers with the smallest of them
        blocks[..., 0] = rng.integers(64, 192, blocks.shape[:2])
    return blocks.reshape(shape[0], -1)


def write_gguf(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kinds: Mapping[str, Kind] | None = None,
) -> Path:
    """A GGUF file by the gguf package; tensors are stored as `kinds` says, else as they are."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    adders: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in metadata.items():
        if key != "general.architecture":
            adders[type(value)](key, value)
    for name, value in tensors.items():
        kind = (kinds or {}).get(name)
        if kind is None:
            writer.add_tensor(name, value)
        else:
            packed = value if value.dtype == np.uint8 else gguf.quants.quantize(value, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str) -> bytes:
    """A string as GGUF stores it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def raw_gguf(
    keys: list[tuple[str, int, bytes]],
    tensors: list[tuple[str, tuple[int, ...], int, int]],
    data: bytes = b"",
    version: int = 3,
) -> bytes:
    """A GGUF file byte by byte, right or wrong.

    Args:
      keys: name, value type, the value's bytes.
      tensors: name, dimensions (innermost first), type, offset.
      data: what follows the header, from the next multiple of 32 bytes on.
      version: in the header.
    """
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name) + struct.pack("<I", kind) + value
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    return out + bytes(-len(out) % 32) + data
