"""`flaxen.attend_torch` outside flaxen is `flaxen.attend`, in values and in gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen
from tests.extras import extra

torch: Any = extra("torch")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 3},
    {"scale": 0.2, "softcap": 2.0},
]


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, 7, n, 8)).astype(np.float32) for n in (4, 2, 2)]


@pytest.mark.parametrize("options", OPTIONS)
def test_values_and_gradients(options: dict[str, Any]) -> None:
    """PyTorch may train such a module itself."""
    arrays = inputs()
    tensors = [torch.from_numpy(each).requires_grad_() for each in arrays]
    out = flaxen.attend_torch(*tensors, **options)
    out.square().sum().backward()

    def loss(*arrays: jax.Array) -> jax.Array:
        return jnp.sum(flaxen.attend(*arrays, **options) ** 2)

    expected = flaxen.attend(*map(jnp.asarray, arrays), **options)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-5)
    gradients = jax.grad(loss, argnums=(0, 1, 2))(*map(jnp.asarray, arrays))
    for tensor, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, atol=1e-4)


def test_the_dtype_is_kept() -> None:
    tensors = [torch.from_numpy(each).to(torch.bfloat16) for each in inputs()]
    out = flaxen.attend_torch(*tensors)
    assert out.dtype == torch.bfloat16
    whole = flaxen.attend_torch(*(each.float() for each in tensors))
    np.testing.assert_array_equal(out.float().numpy(), whole.to(torch.bfloat16).float().numpy())


def test_what_does_not_fit_is_refused() -> None:
    q, k, v = map(torch.from_numpy, inputs())
    with pytest.raises(ValueError, match=r"flaxen.attend_torch takes q \[..., T, N, H\] and k, v"):
        flaxen.attend_torch(q, k, v[:, 1:])
    with pytest.raises(ValueError, match="3 query heads can't share 2 key heads"):
        flaxen.attend_torch(q[:, :, :3], k, v)
    with pytest.raises(ValueError, match=r"the window of .*attend_torch must be a whole number"):
        flaxen.attend_torch(q, k, v, window=0)
