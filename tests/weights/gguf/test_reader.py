"""The GGUF reader: what the gguf package writes is read back, and each damage has its message."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from flaxen.weights.gguf.blocks import BLOCK_TYPES
from flaxen.weights.gguf.reader import read_gguf
from tests.weights.files import ARRAY, STRING, Kind, random_blocks, raw_gguf, text, write_gguf


def test_every_metadata_type_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60_000)
    writer.add_int16("i16", -30_000)
    writer.add_uint32("u32", 4_000_000_000)
    writer.add_int32("i32", -2_000_000_000)
    writer.add_uint64("u64", 2**63)
    writer.add_int64("i64", -(2**62))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("words", "größer\u2581")
    writer.add_array("texts", ["a", "", "ü"])
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.25, -8.0])
    writer.add_array("flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(tmp_path / "m.gguf")
    assert file.metadata == {
        "general.architecture": "llama", "u8": 200, "i8": -3, "u16": 60_000, "i16": -30_000,
        "u32": 4_000_000_000, "i32": -2_000_000_000, "u64": 2**63, "i64": -(2**62), "f32": 0.5,
        "f64": 0.1, "yes": True, "words": "größer\u2581", "texts": ["a", "", "ü"],
        "ints": [1, -2, 3], "floats": [0.25, -8.0], "flags": [True, False],
    }  # fmt: skip
    assert type(file.metadata["yes"]) is bool
    assert file.tensors == {}


def test_alignment_is_honoured(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("a", np.arange(3, dtype=np.float32))
    writer.add_tensor("b", np.arange(6, dtype=np.float16).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    assert tensors["a"].read(0, 3).tolist() == [0, 1, 2]
    assert tensors["b"].shape == (2, 3)
    assert tensors["b"].read(1, 2).tolist() == [[3, 4, 5]]


ONE_F32 = raw_gguf([], [("a", (4,), 0, 0)], np.arange(4, dtype=np.float32).tobytes())


@pytest.mark.parametrize("size", range(0, len(ONE_F32), 7))
def test_a_file_cut_anywhere_is_truncated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(ONE_F32)
    assert read_gguf(path).tensors["a"].read(0, 4).tolist() == [0, 1, 2, 3]
    path.write_bytes(ONE_F32[:size])
    with pytest.raises(ValueError, match=r"m\.gguf is truncated"):
        read_gguf(path)


def test_truncation_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(ONE_F32[:-1])
    with pytest.raises(ValueError, match=r"ends at byte \d+, inside tensor a\. Download it again"):
        read_gguf(path)


BAD: list[tuple[bytes, str]] = [
    (b"PK\x03\x04 zip", r"is no GGUF file: it starts with b'PK"),
    (raw_gguf([], [], version=1), "GGUF version 1, or the other byte order"),
    (raw_gguf([], [], version=3 << 24), "or the other byte order"),
    (raw_gguf([("k", STRING, text("a"))] * 2, []), "metadata key k twice"),
    (raw_gguf([("k", 99, b"")], []), "metadata k has value type 99"),
    (
        raw_gguf([("k", ARRAY, struct.pack("<IQIQ", ARRAY, 1, 4, 0))], []),
        "metadata k has value type 9",
    ),
    (
        raw_gguf([("k", ARRAY, struct.pack("<IQ", 4, 2**60))], []),
        "truncated: it ends at byte .*, inside metadata k",
    ),
    (
        raw_gguf([("k", ARRAY, struct.pack("<IQ", STRING, 2**60))], []),
        "truncated: it ends at byte .*, inside metadata k",
    ),
    (raw_gguf([("k", STRING, struct.pack("<Q", 2) + b"\xff\xfe")], []), "metadata k is not UTF-8"),
    (
        raw_gguf([("general.alignment", 4, struct.pack("<I", 24))], []),
        "general.alignment must be a power of two, got 24",
    ),
    (
        raw_gguf([("general.alignment", STRING, text("x"))], []),
        "general.alignment must be a power of two, got 'x'",
    ),
    (raw_gguf([], [("t", (), 0, 0)]), "tensor t has 0 dimensions"),
    (raw_gguf([], [("t", (1,) * 5, 0, 0)]), "tensor t has 5 dimensions"),
    (raw_gguf([], [("t", (0, 4), 0, 0)]), "tensor t has rows of 0 values"),
    (raw_gguf([], [("t", (33,), 8, 0)]), "rows of 33 values.*multiple of the 32.*Q8_0"),
    (raw_gguf([], [("t", (2**40, 2**40), 0, 0)]), "inside tensor t"),
    (raw_gguf([], [("t", (1,), 0, 0), ("t", (1,), 0, 0)], bytes(4)), "the tensor t twice"),
    (raw_gguf([], [("t", (1,), 28, 0)], bytes(8)), "tensor t has type F64.*Supported are F32"),
    (raw_gguf([], [("t", (1,), 24, 0)], bytes(8)), "tensor t has type I8, which is not supported"),
    (raw_gguf([], [("t", (256,), 9, 0)], bytes(512)), "tensor t has type Q8_1, which is not supp"),
    (raw_gguf([], [("t", (1,), 999, 0)]), "tensor t has type number 999"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_each_damage_has_its_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_gguf(path)


def nibbles(packed: np.ndarray) -> list[int]:
    return [int(b) & 15 for b in packed] + [int(b) >> 4 for b in packed]


def half(raw: np.ndarray) -> np.float32:
    return np.float32(np.frombuffer(raw.tobytes(), np.float16)[0])


def scales_and_mins(raw: np.ndarray) -> tuple[list[int], list[int]]:
    """The eight pairs of 6-bit numbers in the 12 bytes of Q4_K and Q5_K blocks."""
    b = [int(x) for x in raw]
    scales = [b[i] & 63 for i in range(4)] + [b[i + 8] & 15 | (b[i] >> 6) << 4 for i in range(4)]
    mins = [b[i + 4] & 63 for i in range(4)] + [
        b[i + 8] >> 4 | (b[i + 4] >> 6) << 4 for i in range(4)
    ]
    return scales, mins


def dequantized(kind: Kind, block: np.ndarray) -> list[np.float32]:
    """One block's values, from the layouts in ggml-common.h, one number at a time."""
    f32 = np.float32
    if kind == Kind.Q4_0:
        return [f32(q - 8) * half(block[:2]) for q in nibbles(block[2:])]
    if kind == Kind.Q4_1:
        return [f32(q) * half(block[:2]) + half(block[2:4]) for q in nibbles(block[4:])]
    if kind == Kind.Q8_0:
        return [f32(q) * half(block[:2]) for q in block[2:].view(np.int8)]
    if kind in (Kind.Q4_K, Kind.Q5_K):
        d, dmin = half(block[:2]), half(block[2:4])
        scales, mins = scales_and_mins(block[4:16])
        high = block[16:48] if kind == Kind.Q5_K else None
        low = block[48:] if kind == Kind.Q5_K else block[16:]
        values = []
        for group in range(8):
            for i in range(32):
                q = nibbles(low[32 * (group // 2) :][:32])[32 * (group % 2) + i]
                if high is not None:
                    q += 16 * (int(high[i]) >> group & 1)
                values.append(d * f32(scales[group]) * f32(q) - dmin * f32(mins[group]))
        return values
    assert kind == Kind.Q6_K
    low, high, d = block[:128], block[128:192], half(block[208:])
    signed_scales = block[192:208].view(np.int8)
    values = []
    for i in range(256):
        part, j = divmod(i, 128)  # two halves of four groups of 32
        q = int(low[64 * part + j % 64]) >> 4 * (j // 64) & 15
        q |= (int(high[32 * part + j % 32]) >> 2 * (j // 32) & 3) << 4
        values.append(d * f32(signed_scales[i // 16]) * f32(q - 32))
    return values


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K])
def test_quantized_types(tmp_path: Path, kind: Kind) -> None:
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rows = random_blocks(kind, (3, 2 * values))
    blocks = rows.reshape(3, 2, size)
    expected = [[v for block in row for v in dequantized(kind, block)] for row in blocks]
    metadata = {"general.architecture": "llama"}
    write_gguf(tmp_path / "m.gguf", metadata, {"t": rows}, {"t": kind})
    tensor = read_gguf(tmp_path / "m.gguf").tensors["t"]
    assert (tensor.shape, tensor.dtype) == ((3, 2 * values), kind.name)
    got = tensor.read(0, 3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(got, gguf.quants.dequantize(rows, kind))  # to the bit
    np.testing.assert_array_equal(tensor.read(1, 2), got[1:2])


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(ONE_F32)
    tensor = read_gguf(path).tensors["a"]
    path.write_bytes(ONE_F32[:-4])
    with pytest.raises(ValueError, match=r"m\.gguf ends at byte 76, before byte 80, which it had"):
        tensor.read(0, 4)
    assert tensor.read(0, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_floating_types(tmp_path: Path, kind: Kind) -> None:
    values = np.array([[0.5, -3.25, 1024.0], [0.0, -1.0, 0.0078125]], np.float32)
    write_gguf(tmp_path / "m.gguf", {"general.architecture": "llama"}, {"t": values}, {"t": kind})
    tensor = read_gguf(tmp_path / "m.gguf").tensors["t"]
    assert (tensor.shape, tensor.dtype) == ((2, 3), kind.name)
    assert tensor.read(0, 2).astype(np.float32).tolist() == values.tolist()
    assert tensor.read(0, 2).dtype.itemsize == gguf.GGML_QUANT_SIZES[kind][1]


LIBRARY = sorted(gguf.quants._type_traits)


def test_the_table_of_types_is_the_librarys() -> None:
    ours = {kind: (block.name, block.values, block.bytes) for kind, block in BLOCK_TYPES.items()}
    floats = [Kind.F32, Kind.F16, Kind.BF16]
    theirs = {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in [*LIBRARY, *floats]}
    assert theirs.items() <= ours.items()


@pytest.mark.parametrize("kind", [kind for kind in LIBRARY if kind != Kind.BF16], ids=str)
def test_every_type_that_the_library_decodes(tmp_path: Path, kind: Kind) -> None:
    values, _ = gguf.GGML_QUANT_SIZES[kind]
    rows = random_blocks(kind, (5, 2 * values))
    metadata = {"general.architecture": "llama"}
    write_gguf(tmp_path / "m.gguf", metadata, {"t": rows}, {"t": kind})
    tensor = read_gguf(tmp_path / "m.gguf").tensors["t"]
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, kind)
    np.testing.assert_array_equal(tensor.read(0, 5), expected)
    np.testing.assert_array_equal(tensor.read(2, 4), expected[2:4])
