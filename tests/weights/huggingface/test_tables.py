"""Directories whose tensors say something else than config.json: the tensors decide."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.models.model import Params
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.huggingface.export import export_huggingface
from tests.extras import extra
from tests.models.golden import GOLDENS, expected, logits_of
from tests.weights.files import change_config, change_tensors, copy_golden

FLOAT32 = jnp.dtype("float32")
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """A directory whose config.json says that the tables are tied, with one table in it."""
    return copy_golden("qwen3_tied", tmp_path)


def table(directory: Path) -> np.ndarray:
    stored: np.ndarray = load_file(directory / "model.safetensors")[EMBED]
    return stored


def other_table(directory: Path) -> np.ndarray:
    """Another in its last row only: the comparison must go to the end."""
    other = table(directory).copy()
    other[-1] += 1
    return other


def params_of(directory: Path) -> Params:
    return open_checkpoint(directory).load_params(FLOAT32)


def rename(directory: Path, old: str, new: str) -> None:
    path = directory / "model.safetensors"
    save_file({name.replace(old, new): v for name, v in load_file(path).items()}, path)


def test_a_head_that_differs_is_used_though_the_flag_says_tied(
    tied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = other_table(tied)
    change_tensors(tied, lm_head__weight=head)
    checkpoint = open_checkpoint(tied)
    assert not checkpoint.config.tied_embeddings
    assert f"{EMBED} and {HEAD} differ: each is used for its own purpose" in caplog.text
    params = checkpoint.load_params(FLOAT32)
    np.testing.assert_array_equal(params["unembed"], head)
    tokens, _ = expected("qwen3_tied")
    logits = logits_of(checkpoint.model, params, tokens)
    change_config(tied, tie_word_embeddings=False)
    right = open_checkpoint(tied)
    np.testing.assert_array_equal(logits, logits_of(right.model, params_of(tied), tokens))


def test_a_head_that_is_the_same_is_tied(tied: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected_params = params_of(tied)
    change_tensors(tied, lm_head__weight=table(tied))
    assert open_checkpoint(tied).config.tied_embeddings
    jax.tree.map(np.testing.assert_array_equal, params_of(tied), expected_params)
    assert not caplog.records


def test_a_head_of_another_shape_is_refused(tied: Path) -> None:
    change_tensors(tied, lm_head__weight=table(tied)[:-1])
    with pytest.raises(ValueError, match=r"tensor lm_head\.weight has shape .* do not belong tog"):
        open_checkpoint(tied)


def test_an_export_says_what_was_used(tied: Path, tmp_path: Path) -> None:
    change_tensors(tied, lm_head__weight=other_table(tied))
    checkpoint = open_checkpoint(tied)
    params = checkpoint.load_params(FLOAT32)
    export_huggingface(tmp_path / "out", checkpoint.family, checkpoint.config, params)
    assert '"tie_word_embeddings": false' in (tmp_path / "out" / "config.json").read_text()
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "out"), params)


def test_the_head_alone_is_the_embedding_where_they_are_tied(tied: Path) -> None:
    expected_params = params_of(tied)
    rename(tied, EMBED, HEAD)
    jax.tree.map(np.testing.assert_array_equal, params_of(tied), expected_params)


def test_without_a_head_the_embedding_is_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = copy_golden("llama_linear", tmp_path)
    change_tensors(directory, lm_head__weight=None)
    checkpoint = open_checkpoint(directory)
    assert checkpoint.config.tied_embeddings
    assert f"there is no tensor {HEAD}: the embedding is used in its place" in caplog.text
    assert caplog.records[0].levelno == logging.WARNING
    params = checkpoint.load_params(FLOAT32)
    assert "unembed" not in params
    np.testing.assert_array_equal(params["embed"], table(directory))


@pytest.mark.parametrize("case", ["llama_linear", "llama_tied_biases", "qwen2_biases"])
def test_names_without_the_prefix_are_read(tmp_path: Path, case: str) -> None:
    directory = copy_golden(case, tmp_path)
    rename(directory, "model.", "")
    jax.tree.map(np.testing.assert_array_equal, params_of(directory), params_of(GOLDENS / case))


@pytest.mark.parametrize(
    ("case", "name"),
    [("llama_linear", "LlamaModel"), ("mistral_window", "MistralModel"),
     ("qwen2_biases", "Qwen2Model"), ("qwen3_tied", "Qwen3Model")],
)  # fmt: skip
def test_a_model_that_was_saved_without_its_head(
    tmp_path: Path, case: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What transformers' AutoModel writes: no prefix, no head, and a name of its own."""
    directory = copy_golden(case, tmp_path)
    whole = params_of(directory)
    change_config(directory, architectures=[name])
    change_tensors(directory, lm_head__weight=None)
    rename(directory, "model.", "")
    params = params_of(directory)
    is_tied = "unembed" not in whole
    assert ("the embedding is used in its place" in caplog.text) is not is_tied
    jax.tree.map(
        np.testing.assert_array_equal, params, {k: v for k, v in whole.items() if k != "unembed"}
    )


def test_other_prefixes_are_refused(tmp_path: Path) -> None:
    directory = copy_golden("llama_linear", tmp_path)
    rename(directory, "model.", "module.")
    with pytest.raises(ValueError, match=r"tensor model\.embed_tokens\.weight is missing"):
        open_checkpoint(directory)


def test_names_of_both_kinds_are_refused(tmp_path: Path) -> None:
    directory = copy_golden("llama_linear", tmp_path)
    rename(directory, "model.layers.0.", "layers.0.")
    with pytest.raises(ValueError, match=r"tensor model\.layers\.0\.\S+ is missing"):
        open_checkpoint(directory)


def test_the_logits_are_those_of_transformers(tied: Path) -> None:
    torch: Any = extra("torch")
    transformers: Any = extra("transformers")
    rng = np.random.default_rng(0)
    head = rng.normal(size=table(tied).shape).astype(np.float32)
    change_tensors(tied, lm_head__weight=head)
    checkpoint = open_checkpoint(tied)
    tokens, _ = expected("qwen3_tied")
    ours = logits_of(checkpoint.model, checkpoint.load_params(FLOAT32), tokens)
    module = transformers.AutoModelForCausalLM.from_pretrained(tied, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = module(torch.tensor(tokens.tolist())[None]).logits[0].numpy()
    assert ours.std() > 1  # a tolerance means nothing on logits near 0
    np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)
