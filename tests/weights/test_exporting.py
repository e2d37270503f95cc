"""Models in files, written again: what comes back is what was there, merged or not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.families import find_family
from flaxen.hub.resolve import resolve
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.exporting import export_directory, export_gguf
from flaxen.weights.gguf.metadata import check_params
from flaxen.weights.gguf.reader import read_gguf
from tests.full_disk import fill_disk_of
from tests.models.family_table import row_of
from tests.models.features import features
from tests.models.golden import CASES
from tests.weights.adapters.made import random_adapter
from tests.weights.files import (
    Kind,
    change_config,
    change_tensors,
    golden_tensors,
)
from tests.weights.tokenizer_files import TEMPLATE, TEXT, golden, quantized_golden

__all__ = ["golden"]  # the fixture

FLOAT32 = jnp.dtype("float32")
REFUSED = {  # goldens that GGUF, or llama.cpp, can't express
    "llama_llama3": "does not hold Llama 3's scaling for 4 times 8192 tokens",
    "qwen2_windows": "it does not say on which layers",
    "qwen3_biases_windows": "biases on wo, which llama.cpp does not read for qwen3: export it as",
    "seed_oss_out_biases": "biases on wo, w_gate, w_up, w_down, which llama.cpp does not read for",
}
WRITTEN = [case for case in CASES if case not in REFUSED]


def assert_equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def same_model(ours: Checkpoint, theirs: Checkpoint) -> None:
    """Asserts that two checkpoints are the same model, but for GGUF's float32 numbers."""
    found, given = features(ours.config), features(theirs.config)
    assert found.norm_eps == pytest.approx(given.norm_eps, rel=1e-7)
    assert replace(found, norm_eps=0.1, rope=given.rope) == replace(given, norm_eps=0.1)
    assert found.rope is not None
    assert given.rope is not None
    for name, value in vars(given.rope).items():
        own = vars(found.rope)[name]
        if isinstance(value, float):
            assert own == pytest.approx(value, rel=1e-7), name
        else:
            assert own == value, name
    mine, its = ours.make_tokenizer(), theirs.make_tokenizer()
    assert mine.encode(TEXT) == its.encode(TEXT)
    assert mine.eos_token_ids == its.eos_token_ids
    assert mine.chat_template == its.chat_template == TEMPLATE
    assert mine.special_token_ids == its.special_token_ids


@pytest.mark.parametrize("case", WRITTEN)
def test_a_directory_comes_back_from_gguf_to_the_bit(
    tmp_path: Path, golden: Callable[[str], Path], case: str
) -> None:
    path = golden(case)
    source = open_checkpoint(path)
    export_gguf(source, path, tmp_path / "m.gguf")
    again = open_checkpoint(tmp_path / "m.gguf")
    same_model(again, source)
    assert again.dtype == jnp.float32
    assert_equal(again.load_params(FLOAT32), source.load_params(FLOAT32))
    tensors = {each.name: each for each in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert tensors.keys() == golden_tensors(case).keys()  # as llama.cpp's converter names them
    for name, values in golden_tensors(case).items():
        np.testing.assert_array_equal(tensors[name].data, values)


@pytest.mark.parametrize("case", REFUSED)
def test_what_gguf_can_not_say_is_refused(
    tmp_path: Path, golden: Callable[[str], Path], case: str
) -> None:
    path = golden(case)
    with pytest.raises(ValueError, match=REFUSED[case]):
        export_gguf(open_checkpoint(path), path, tmp_path / "m.gguf")
    assert [each.name for each in tmp_path.iterdir()] == [case]


def test_an_unembedding_that_llama_cpp_does_not_read_is_refused() -> None:
    family = find_family("Gemma2ForCausalLM")
    config = family.config_from_hf(row_of("gemma2").options)
    with pytest.raises(ValueError, match=r"has an unembedding of its own, and llama\.cpp"):
        check_params(family, config)
    check_params(family, replace(config, tied_embeddings=True))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("mistral_window", "no sliding window for llama: its answers are others after 8 tokens"),
        ("llama_yarn", "no beta_fast and beta_slow of YaRN for llama, and takes 32 and 1"),
        ("llama_default", ""),
    ],
)
def test_what_llama_cpp_leaves_out_is_said(
    tmp_path: Path,
    golden: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
    case: str,
    message: str,
) -> None:
    path = golden(case)
    with caplog.at_level(logging.WARNING):
        export_gguf(open_checkpoint(path), path, tmp_path / "m.gguf")
    assert message in caplog.text
    assert bool(message) == bool(caplog.text)


def test_llama_3s_scaling_is_written_as_a_table(
    tmp_path: Path, golden: Callable[[str], Path]
) -> None:
    path = golden("llama_default")
    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    change_config(path, rope_parameters=rope)
    source = open_checkpoint(path)
    export_gguf(source, path, tmp_path / "m.gguf")
    same_model(open_checkpoint(tmp_path / "m.gguf"), source)


@pytest.mark.parametrize(("out_type", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_halves_are_rounded_once_and_norms_are_float32(
    tmp_path: Path, golden: Callable[[str], Path], out_type: str, dtype: str
) -> None:
    path = golden("qwen2_biases")
    source = open_checkpoint(path)
    export_gguf(source, path, tmp_path / "m.gguf", out_type=out_type)
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    for name, values in golden_tensors("qwen2_biases").items():
        is_vector = values.ndim == 1
        assert tensors[name].dtype == ("F32" if is_vector else out_type.upper())
        rounded = values if is_vector else values.astype(jnp.dtype(dtype))
        np.testing.assert_array_equal(tensors[name].read(0, len(values)), rounded)
    # Exact: a directory of that dtype has the same weights in every format.
    export_directory(source, path, tmp_path / "half", dtype=dtype)
    half = open_checkpoint(tmp_path / "half")
    export_gguf(half, tmp_path / "half", tmp_path / "h.gguf")
    again = open_checkpoint(tmp_path / "h.gguf")
    assert again.dtype == jnp.dtype(dtype)
    assert_equal(again.load_params(FLOAT32), half.load_params(FLOAT32))


@pytest.mark.parametrize("out_type", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_quantized_as_the_gguf_package_does(
    tmp_path: Path, golden: Callable[[str], Path], out_type: str
) -> None:
    path = golden("qwen2_biases")
    source = open_checkpoint(path)
    export_gguf(source, path, tmp_path / "m.gguf", out_type=out_type)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    kind = Kind[out_type.upper()]
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{kind.name}"]
    assert fields["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    found = {each.name: each for each in reader.tensors}
    for name, values in golden_tensors("qwen2_biases").items():
        wanted = kind
        if values.ndim == 1:
            wanted = Kind.F32
        elif name in ("token_embd.weight", "output.weight"):
            wanted = Kind.Q8_0
        elif values.shape[1] % 32:  # a row of 48 values is no whole number of blocks
            wanted = Kind.F16
        assert found[name].tensor_type == wanted, name
        np.testing.assert_array_equal(found[name].data, gguf.quants.quantize(values, wanted))


def test_blocks_are_kept_without_loss(tmp_path: Path) -> None:
    path = quantized_golden(tmp_path / "m.gguf")
    export_gguf(open_checkpoint(path), path, tmp_path / "again.gguf")
    theirs, ours = read_gguf(path), read_gguf(tmp_path / "again.gguf")
    assert theirs.metadata.items() <= ours.metadata.items()
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        found = ours.tensors[name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert found.blocks is not None
        assert tensor.blocks is not None
        rows = tensor.shape[0]
        np.testing.assert_array_equal(found.blocks.read(0, rows), tensor.blocks.read(0, rows))


def test_an_adapter_beside_blocks_changes_only_its_matrices(tmp_path: Path) -> None:
    path = quantized_golden(tmp_path / "m.gguf")
    source = open_checkpoint(path)
    adapter = random_adapter(source.model, targets=("wq", "w_down"))
    export_gguf(source, path, tmp_path / "mine.gguf", adapters=[adapter])
    ours = read_gguf(tmp_path / "mine.gguf")
    types = {name: tensor.dtype for name, tensor in ours.tensors.items()}
    assert types["blk.0.attn_q.weight"] == types["blk.1.ffn_down.weight"] == "BF16"
    assert (types["token_embd.weight"], types["blk.1.ffn_up.weight"]) == ("Q8_0", "Q4_1")
    assert ours.metadata["general.name"] == "mine"
    assert ours.metadata["general.license"] == "mit"


def test_a_name_in_use_is_refused(tmp_path: Path, golden: Callable[[str], Path]) -> None:
    path = golden("qwen3_tied")
    source = open_checkpoint(path)
    out = tmp_path / "m.gguf"
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"m\.gguf exists already: remove it, or give another"):
        export_gguf(source, path, out)
    assert out.read_text() == "mine"
    for wrong in ("q4_k_m", "int8"):
        with pytest.raises(ValueError, match=f"the type '{wrong}' can't be written: use auto, f32"):
            export_gguf(source, path, out, out_type=wrong)
    with pytest.raises(ValueError, match="llama-quantize makes the K-quants and IQ types: export"):
        export_gguf(source, path, out, out_type="q4_k_m")
    other = random_adapter(open_checkpoint(golden("qwen2_windows")).model)
    with pytest.raises(ValueError, match="it was made for another model"):
        export_gguf(source, path, tmp_path / "n.gguf", adapters=[other])


@pytest.mark.parametrize("name", ["out", "m.gguf"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, golden: Callable[[str], Path], name: str
) -> None:
    path = golden("qwen3_tied")
    source = open_checkpoint(path)

    def fill(done: int, total: int) -> None:
        (beside,) = (each for each in tmp_path.iterdir() if each.name.startswith("."))
        for directory in (beside, beside / "new"):
            fill_disk_of(directory)

    export = export_gguf if name.endswith(".gguf") else export_directory
    with pytest.raises(OSError, match="No space left on device"):
        export(source, path, tmp_path / name, on_progress=fill)
    assert [each.name for each in tmp_path.iterdir()] == ["qwen3_tied"]


@pytest.mark.parametrize(
    ("value", "out_type", "message"),
    [
        (1e5, "f16", r"tensor blk\.0\.attn_q\.weight has values up to 100000, and float16 ends at"),
        (1e5, "q8_0", r"blk\.0\.attn_q\.weight has values that are not finite or above 65504, wh"),
        (np.nan, "q4_0", r"blk\.0\.attn_q\.weight has values that are not finite .* bf16 or f32"),
    ],
)
def test_what_a_type_can_not_hold_is_refused(
    tmp_path: Path, golden: Callable[[str], Path], value: float, out_type: str, message: str
) -> None:
    path = golden("qwen2_biases")
    name = "model__layers__0__self_attn__q_proj__weight"
    change_tensors(path, **{name: np.full((32, 32), value, np.float32)})
    with pytest.raises(ValueError, match=message):
        export_gguf(open_checkpoint(path), path, tmp_path / "m.gguf", out_type=out_type)
    assert [each.name for each in tmp_path.iterdir()] == ["qwen2_biases"]


@pytest.mark.slow
def test_smollm2_comes_back_through_every_format(tmp_path: Path) -> None:
    path = resolve("smollm2-135m")
    source = open_checkpoint(path)
    out = tmp_path / "directory"
    export_directory(source, path, out)
    export_gguf(open_checkpoint(out), out, tmp_path / "a.gguf")
    export_gguf(source, path, tmp_path / "b.gguf", out_type="bf16")
    one, two = (read_gguf(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    theirs = read_gguf(path).metadata
    for name, value in theirs.items():
        # Made again from tokenizer.json, which does not say how SentencePiece adds spaces.
        if name.startswith("tokenizer.") and not name.endswith("add_space_prefix"):
            assert one.metadata[name] == two.metadata[name] == value, name
    for name, tensor in one.tensors.items():
        rows = tensor.shape[0]
        np.testing.assert_array_equal(tensor.read(0, rows), two.tensors[name].read(0, rows))
    assert_equal(
        open_checkpoint(tmp_path / "a.gguf").load_params(FLOAT32), source.load_params(FLOAT32)
    )
