"""Adapters merged into models in files: the stated sum, to the bit, and the logits of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.models.adapters import with_adapters
from flaxen.models.model import Params
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.checkpoint import Checkpoint, open_checkpoint
from flaxen.weights.exporting import export_directory, export_gguf
from tests.models.golden import expected, logits_of
from tests.weights.adapters.made import random_adapter
from tests.weights.tokenizer_files import golden, quantized_golden

__all__ = ["golden"]  # the fixture
FLOAT32 = jnp.dtype("float32")


def exact_params(checkpoint: Checkpoint) -> Params:
    """The parameters as the file has them, without rounding to bfloat16 first (decision 0020)."""
    return replace(checkpoint, round_to=None).load_params(FLOAT32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_merging_adds_the_scaled_product_to_the_bit(
    tmp_path: Path, dtype: str, use_rslora: bool
) -> None:
    """Base + scale * a @ b in float32, of exactly dequantized weights, rounded once."""
    path = quantized_golden(tmp_path / "m.gguf")
    source = open_checkpoint(path)
    one = random_adapter(source.model, targets=("wq", "wk", "w_up"), use_rslora=use_rslora)
    two = random_adapter(source.model, seed=1, targets=("wq", "wo"))
    export_directory(source, path, tmp_path / "out", adapters=[one, two], dtype=dtype)
    merged = merge_adapter(merge_adapter(exact_params(source), one), two)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(FLOAT32), merged)
    jax.tree.map(
        np.testing.assert_array_equal,
        open_checkpoint(tmp_path / "out").load_params(FLOAT32),
        rounded,
    )


@pytest.mark.parametrize("case", ["llama_tied_biases", "mistral_window", "qwen3_tied"])
def test_a_merged_model_computes_what_base_and_adapter_do(
    tmp_path: Path, golden: Callable[[str], Path], case: str
) -> None:
    """Beside the model the products are added in another order: equal to 1e-4."""
    path = golden(case)
    source = open_checkpoint(path)
    adapter = random_adapter(source.model, use_rslora=True)
    export_directory(source, path, tmp_path / "merged", adapters=[adapter])
    export_gguf(source, path, tmp_path / "merged.gguf", adapters=[adapter])
    tokens, base = expected(case)
    params = source.load_params(FLOAT32)
    stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], adapter.tree)
    scales, ids = jnp.array([adapter.config.scale]), jnp.zeros((1, len(tokens)), jnp.int32)
    beside = logits_of(source.model, with_adapters(params, stack, scales, ids), tokens)
    for name in ("merged", "merged.gguf"):
        found = open_checkpoint(tmp_path / name)
        merged = logits_of(found.model, found.load_params(FLOAT32), tokens)
        np.testing.assert_allclose(merged, beside, atol=1e-4, rtol=1e-4)
    assert np.abs(beside - base).max() > 0.1
