"""flaxen.load: what the server computes with, as functions and arrays."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from flaxen.hub.resolve import resolve
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import PackedLinear
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import GOLDENS, expected, logits_of
from tests.weights.adapters.made import random_adapter
from tests.weights.files import Kind, golden_metadata, golden_tensors, write_gguf

CASE = GOLDENS / "qwen3_tied"
needs_kernels = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")


def test_a_model_is_a_function() -> None:
    model, params = flaxen.load(CASE)
    tokens, logits = expected("qwen3_tied")
    np.testing.assert_allclose(logits_of(model, params, tokens), logits, atol=2e-4, rtol=2e-4)
    assert isinstance(params["embed"], jax.Array)
    assert params["embed"].dtype == jnp.float32


@pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=needs_kernels)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_merged(tmp_path: Path, backend: str, dtype: str) -> None:
    model, base = flaxen.load(str(CASE), dtype=dtype, backend=backend)
    adapter = random_adapter(model)
    save_adapter(tmp_path / "adapter", adapter)
    expected_params = merge_adapter(base, adapter)
    for given in (adapter, tmp_path / "adapter", str(tmp_path / "adapter")):
        _, params = flaxen.load(CASE, dtype=dtype, adapter=given, backend=backend)
        jax.tree.map(np.testing.assert_array_equal, params, expected_params)
    assert isinstance(params["layers"][0]["wq"], PackedLinear) == (backend == "cpu")


@needs_kernels
def test_packed_parameters_are_the_servers() -> None:
    _, params = flaxen.load(CASE, dtype="bfloat16", backend="cpu", quantization="int8")
    served = open_checkpoint(CASE).load_params(
        jnp.dtype("bfloat16"), backend=Backend.CPU, quantization="int8"
    )
    jax.tree.map(np.testing.assert_array_equal, params, served)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype 'float23' is not supported: use float32 or"):
        flaxen.load(CASE, dtype="float23")
    with pytest.raises(ValueError, match="dtype int8 is not supported: use float32"):
        flaxen.load(CASE, dtype="int8")
    other = open_checkpoint(GOLDENS / "qwen2_windows").model
    with pytest.raises(ValueError, match="it was made for another model"):
        flaxen.load(CASE, adapter=random_adapter(other))
    with pytest.raises(ValueError, match=r"adapter_config\.json does not exist"):
        flaxen.load(CASE, adapter=tmp_path)
    with pytest.raises(ValueError, match="the backend tpu was asked for, but JAX computes on"):
        flaxen.load(CASE, backend="tpu")


@needs_kernels
def test_quantized_weights_take_no_adapter(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        golden_metadata("llama_default"),
        golden_tensors("llama_default"),
        {"blk.0.ffn_gate.weight": Kind.Q8_0},
    )
    model, _ = flaxen.load(path)
    adapter = random_adapter(model)
    flaxen.load(path, backend="cpu", adapter=adapter)
    with pytest.raises(ValueError, match=r"w_gate is quantized \(int8\), so an adapter can't be"):
        flaxen.load(path, backend="cpu", adapter=adapter, quantization="auto")


def test_the_tokenizer_is_the_servers() -> None:
    real = resolve("smollm2-135m")
    assert flaxen.load_tokenizer("smollm2-135m").encode("One, two") == (
        open_checkpoint(real).make_tokenizer().encode("One, two")
    )
    with pytest.raises(ValueError, match="found no model '/nowhere/model'"):
        flaxen.load_tokenizer("/nowhere/model")
