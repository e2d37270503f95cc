"""The front: GGUF = Hugging Face, the rounding rule, and what is checked before any compile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tokenizers

from flaxen.hub.resolve import resolve
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import unpack
from flaxen.models.param_spec import ParamSpec
from flaxen.models.rope_config import RopeConfig
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.features import features
from tests.models.golden import GOLDENS
from tests.weights.files import (
    Kind,
    change_tensors,
    copy_golden,
    golden_metadata,
    golden_tensors,
    write_gguf,
)

FLOAT32 = jnp.dtype("float32")
ROPE: dict[str, dict[str, Any]] = {
    "llama_linear": {
        "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0,
    },
    "llama_yarn": {
        "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32,
        "llama.rope.scaling.yarn_beta_fast": 2.0, "llama.rope.scaling.yarn_beta_slow": 0.5,
    },
    "mistral_window": {"llama.attention.sliding_window": 8},
}  # fmt: skip


def golden_gguf(path: Path, case: str, kinds: dict[str, Kind] | None = None) -> Path:
    metadata = {**golden_metadata(case), **ROPE.get(case, {})}
    return write_gguf(path, metadata, golden_tensors(case), kinds)


def assert_equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)  # raises where the trees differ


@pytest.mark.parametrize(
    "case",
    ["llama_default", "llama_linear", "llama_yarn", "llama_tied_biases", "mistral_window",
     "qwen2_biases", "qwen3_tied", "seed_oss_biases", "seed_oss_out_biases"],
)  # fmt: skip
def test_gguf_equals_hugging_face(tmp_path: Path, case: str) -> None:
    gguf = open_checkpoint(golden_gguf(tmp_path / "m.gguf", case))
    hf = open_checkpoint(GOLDENS / case)
    assert gguf.dtype == hf.dtype == jnp.float32
    found, given = features(gguf.config), features(hf.config)
    assert found.norm_eps == pytest.approx(given.norm_eps)  # float32 in the file
    assert replace(found, norm_eps=given.norm_eps) == given
    assert_equal(gguf.load_params(FLOAT32), hf.load_params(FLOAT32))


@pytest.mark.parametrize("case", ["llama_tied_biases", "qwen3_tied"])
def test_params_match_the_specs(case: str) -> None:
    checkpoint = open_checkpoint(GOLDENS / case)
    params = checkpoint.load_params(FLOAT32)
    specs = checkpoint.model.param_specs

    def check(spec: ParamSpec, array: jax.Array) -> None:
        assert isinstance(array, jax.Array)
        assert (array.shape, array.dtype) == (spec.shape, FLOAT32)

    jax.tree.map(check, specs, params, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))


def test_one_quantized_tensor_makes_the_whole_checkpoint_bfloat16(tmp_path: Path) -> None:
    name = "blk.0.ffn_gate.weight"
    checkpoint = open_checkpoint(
        golden_gguf(tmp_path / "m.gguf", "llama_default", {name: Kind.Q8_0})
    )
    assert checkpoint.dtype == jnp.bfloat16
    exact = open_checkpoint(GOLDENS / "llama_default").load_params(FLOAT32)
    params = checkpoint.load_params(FLOAT32)
    for path in (("final_norm",), ("embed",), ("layers", 0, "wq"), ("layers", 1, "attn_norm")):
        ours, theirs = params, exact
        for step in path:
            ours, theirs = ours[step], theirs[step]
        rounded = np.asarray(theirs).astype(ml_dtypes.bfloat16).astype(np.float32)
        assert (rounded != np.asarray(theirs)).any()
        np.testing.assert_array_equal(ours, rounded)
    gate = np.asarray(params["layers"][0]["w_gate"])
    np.testing.assert_array_equal(gate, gate.astype(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_allclose(gate, exact["layers"][0]["w_gate"], atol=0.02)


def test_a_float32_file_keeps_its_values_and_a_float16_file_its_dtype(tmp_path: Path) -> None:
    path = golden_gguf(tmp_path / "m.gguf", "llama_default")
    assert open_checkpoint(path).dtype == jnp.float32
    tensors = {k: v if v.ndim == 1 else v.astype(np.float16)
               for k, v in golden_tensors("llama_default").items()}  # fmt: skip
    write_gguf(path, golden_metadata("llama_default"), tensors)
    checkpoint = open_checkpoint(path)
    assert checkpoint.dtype == jnp.float16
    norm = checkpoint.load_params(FLOAT32)["final_norm"]
    np.testing.assert_array_equal(norm, tensors["output_norm.weight"])


def test_an_interleaved_head_is_put_in_order_when_read_in_pieces(tmp_path: Path) -> None:
    # 4096 columns make a piece of 32 rows: two pieces for the query, with four heads each.
    rng = np.random.default_rng(0)
    model_dim, heads, head_dim = 4096, 8, 8
    expected = rng.normal(size=(heads * head_dim, model_dim)).astype(np.float32)
    permuted = expected.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(64, -1)
    own = {"embedding_length": model_dim, "attention.head_count": heads, "block_count": 1,
           "attention.head_count_kv": heads, "attention.key_length": head_dim,
           "feed_forward_length": 4, "context_length": 8,
           "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    shapes = {"token_embd": (4, 4096), "output_norm": (4096,), "blk.0.attn_norm": (4096,),
              "blk.0.ffn_norm": (4096,), "blk.0.attn_v": (64, 4096), "blk.0.ffn_gate": (4, 4096),
              "blk.0.ffn_up": (4, 4096), "blk.0.ffn_down": (4096, 4),
              "blk.0.attn_output": (4096, 64)}  # fmt: skip
    tensors = {f"{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    tensors |= {"blk.0.attn_q.weight": permuted, "blk.0.attn_k.weight": permuted}
    metadata = {"general.architecture": "llama", **{f"llama.{k}": v for k, v in own.items()}}
    path = write_gguf(tmp_path / "m.gguf", metadata, tensors)
    layer = open_checkpoint(path).load_params(FLOAT32)["layers"][0]
    np.testing.assert_array_equal(layer["wq"], expected.T)
    np.testing.assert_array_equal(layer["wk"], expected.T)
    packed = open_checkpoint(path).load_params(FLOAT32, backend=Backend.CPU)["layers"][0]
    np.testing.assert_array_equal(unpack(packed["wq"]), expected.T)


def test_progress_goes_up_to_all_bytes() -> None:
    seen: list[tuple[int, int]] = []
    checkpoint = open_checkpoint(GOLDENS / "qwen3_tied")
    checkpoint.load_params(FLOAT32, on_progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert {total for _, total in seen} == {seen[-1][0]}
    assert seen[-1][0] == sum(source.stored.num_bytes for source in checkpoint.sources.params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_requested_dtype(dtype: str) -> None:
    params = open_checkpoint(GOLDENS / "qwen3_tied").load_params(jnp.dtype(dtype))
    assert {array.dtype.name for array in jax.tree.leaves(params)} == {dtype}


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="dtype int8 is not supported: use float32, bfloat16, fl"):
        open_checkpoint(GOLDENS / "qwen3_tied").load_params(jnp.dtype("int8"))


WK = "model__layers__1__self_attn__k_proj__weight"


@pytest.mark.parametrize(
    ("case", "tensors", "message"),
    [
        ("llama_linear", {WK: None}, r"tensor model\.layers\.1\.self_attn\.k_proj\.weight is miss"),
        (
            "llama_linear",
            {WK: np.zeros((16, 31), np.float32)},
            r"k_proj\.weight has shape \[16, 31\], but the configuration needs \[16, 32\]",
        ),
        (
            "llama_linear",
            {WK: np.zeros((32, 16), np.float32)},
            r"k_proj\.weight has shape \[32, 16\], but the configuration needs \[16, 32\]",
        ),
        (
            "llama_linear",
            {"model__norm__weight": np.zeros((), np.float32)},
            r"model\.norm\.weight has shape \[\], but the configuration needs \[32\]",
        ),
        (
            "llama_linear",
            {"model__layers__0__self_attn__q_proj__bias": np.zeros(32, np.float32)},
            r"tensor model\.layers\.0\.self_attn\.q_proj\.bias has no place in the model: leaving",
        ),
        (
            "llama_linear",
            {"extra__a": np.zeros(1, np.float32), "extra__b": np.zeros(1, np.float32)},
            r"tensor extra\.a has no place in the model, nor have 1 more",
        ),
        (
            "llama_linear",
            {"model__layers__2__input_layernorm__weight": np.zeros(32, np.float32)},
            r"tensor model\.layers\.2\.input_layernorm\.weight has no place",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, case: str, tensors: dict[str, Any], message: str
) -> None:
    open_checkpoint(copy_golden(case, tmp_path))
    change_tensors(tmp_path, **tensors)
    with pytest.raises(ValueError, match=message):
        open_checkpoint(tmp_path)


def test_gguf_tensors_that_do_not_fit(tmp_path: Path) -> None:
    metadata, tensors = golden_metadata("llama_default"), golden_tensors("llama_default")
    path = tmp_path / "m.gguf"
    without = {k: v for k, v in tensors.items() if k != "blk.1.ffn_up.weight"}
    write_gguf(path, metadata, without)
    with pytest.raises(ValueError, match=r"m\.gguf: tensor blk\.1\.ffn_up\.weight is missing"):
        open_checkpoint(path)
    write_gguf(path, metadata, {**tensors, "blk.0.attn_v.bias": np.zeros(32, np.float32)})
    with pytest.raises(ValueError, match=r"tensor blk\.0\.attn_v\.bias has no place in the model"):
        open_checkpoint(path)
    write_gguf(path, metadata, {**tensors, "blk.0.attn_q.bias": np.zeros(64, np.float32)})
    with pytest.raises(ValueError, match=r"tensor blk\.0\.attn_k\.bias is missing"):
        open_checkpoint(path)
    write_gguf(path, {**metadata, "llama.vocab_size": 127}, tensors)
    with pytest.raises(ValueError, match=r"token_embd\.weight has shape \[128, 32\].*\[127, 32\]"):
        open_checkpoint(path)


def test_what_is_nowhere_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing does not exist: give a \.gguf file or a direc"):
        open_checkpoint(tmp_path / "nothing")


def test_names(tmp_path: Path) -> None:
    assert open_checkpoint(GOLDENS / "qwen3_tied").name == "qwen3_tied"
    assert open_checkpoint(golden_gguf(tmp_path / "tiny.Q8.gguf", "qwen3_tied")).name == "tiny.Q8"
    snapshot = tmp_path / "models--org--my--model" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    assert open_checkpoint(copy_golden("qwen3_tied", snapshot)).name == "org/my--model"


def test_tokenizer_of_a_directory(tmp_path: Path) -> None:
    copy_golden("qwen3_tied", tmp_path)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "he"])}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[("h", "e")]))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    assert open_checkpoint(tmp_path).make_tokenizer().encode("he!") == [256, vocab["!"]]


@pytest.mark.slow
def test_smollm2_is_what_its_authors_published() -> None:
    checkpoint = open_checkpoint(resolve("smollm2-135m"))
    config = features(checkpoint.config)
    assert checkpoint.name == "SmolLM2-135M-Instruct.Q4_1"
    assert checkpoint.dtype == jnp.bfloat16
    assert np.float32(config.norm_eps) == np.float32(1e-5)
    assert config.rope == RopeConfig(theta=100_000)
    assert (config.model_dim, config.mlp_dim, config.num_layers) == (576, 1536, 30)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.vocab_size, config.max_position) == (49_152, 8192)
    assert config.tied_embeddings
    assert checkpoint.make_tokenizer().vocab_size == 49_152
