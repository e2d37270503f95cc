"""Adapters on quantized checkpoints (QLoRA): the same outputs and gradients as on plain weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models.adapters import LoraConfig, adapter_shapes, with_adapters
from flaxen.models.model import Model
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import hidden_states, logits_of
from tests.tensors.quantized import made
from tests.tensors.quantized.test_reading import CASES

FLOAT32 = jnp.dtype("float32")
TOKENS = np.arange(12, dtype=np.int32) * 7 % made.VOCAB
KINDS = ["int4 with zeros", "gptq in the order of activations", "fp8 in blocks", "mxfp4"]


def random_adapters(model: Model) -> Any:
    shapes = adapter_shapes(model, LoraConfig(rank=3, alpha=6))
    leaves, tree = jax.tree.flatten(shapes, is_leaf=_is_shape)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    pairs = zip(keys, leaves, strict=True)
    drawn = [0.1 * jax.random.normal(key, (1, *shape)) for key, shape in pairs]
    return jax.tree.unflatten(tree, drawn)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and isinstance(node[0], int)


def outputs(model: Model, params: Any, adapters: Any) -> tuple[np.ndarray, Any]:
    """The logits, and the adapters' gradients of a weighted sum of them."""
    ids = jnp.zeros((1, len(TOKENS)), jnp.int32)
    upstream = jax.random.normal(jax.random.key(1), (len(TOKENS), made.VOCAB))

    def weighted(adapters: Any) -> tuple[jax.Array, jax.Array]:
        adapted = with_adapters(params, adapters, jnp.ones(1), ids)
        found = model.unembed(adapted, hidden_states(model, adapted, TOKENS)[None])[0]
        return jnp.sum(found * upstream), found

    gradients, found = jax.jit(jax.grad(weighted, has_aux=True))(adapters)
    return np.asarray(found), gradients


@pytest.mark.parametrize("backend", [Backend.CPU, Backend.GPU])
@pytest.mark.parametrize("name", KINDS)
def test_adapters_on_a_quantized_base(tmp_path: Path, name: str, backend: Backend) -> None:
    case = CASES[name]
    values = made.write_model(tmp_path, case.make, case.quantization)
    (tmp_path / "plain").mkdir()
    made.write_plain(tmp_path / "plain", values)
    plain, quantized = open_checkpoint(tmp_path / "plain"), open_checkpoint(tmp_path)
    adapters = random_adapters(plain.model)
    expected = outputs(plain.model, plain.load_params(FLOAT32), adapters)
    params = quantized.load_params(FLOAT32, backend=backend, quantization="auto")
    found = outputs(quantized.model.on(backend), params, adapters)
    without = logits_of(plain.model, plain.load_params(FLOAT32), TOKENS)
    assert np.abs(expected[0] - without).max() > 0.01
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4, rtol=0)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-3),
        found[1],
        expected[1],
    )
