"""The example's functions = the same by hand: differences, one by one, without jit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.functions import (
    completion_logprobs,
    embedding_gradient,
    logprobs_by_adapter,
    main,
    random_adapters,
    steered,
    steering_jacobian,
)
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.adapters import LoraConfig
from flaxen.weights.adapters.adapter import from_stack, merge_adapter
from tests.engine.tiny import MODEL, PARAMS, dense_logprobs, pack_params

PROMPT = jnp.asarray([5, 77, 130, 9, 5], jnp.int32)
COMPLETION = jnp.asarray([200, 31, 8], jnp.int32)
IDS = [*PROMPT.tolist(), *COMPLETION.tolist()]
ROWS = PARAMS["embed"][jnp.asarray(IDS)]
LOGPROBS = jax.jit(functools.partial(completion_logprobs, MODEL))
needs_kernels = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
BACKENDS = [Backend.REFERENCE, pytest.param(Backend.CPU, marks=needs_kernels)]


@functools.cache
def embedding_gradient_of(backend: Backend) -> Any:
    return jax.jit(functools.partial(embedding_gradient, MODEL.on(backend)))


def test_logprobs_are_those_of_the_whole_forward() -> None:
    found = LOGPROBS(PARAMS, PROMPT, COMPLETION)
    rows = dense_logprobs(IDS)[len(PROMPT) - 1 : -1]
    np.testing.assert_allclose(found, rows[range(3), COMPLETION.tolist()], rtol=1e-5)


def test_embeddings_may_be_given() -> None:
    given = LOGPROBS(PARAMS, PROMPT, COMPLETION, ROWS)
    np.testing.assert_allclose(given, LOGPROBS(PARAMS, PROMPT, COMPLETION), rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_by_the_embeddings(backend: Backend) -> None:
    params = PARAMS
    if backend.packs_weights:  # all but the table, of which rows are taken
        params = {**pack_params(PARAMS), "embed": PARAMS["embed"]}
    gradient = embedding_gradient_of(backend)(params, PROMPT, COMPLETION)
    assert gradient.shape == ROWS.shape
    direction = np.random.default_rng(0).normal(size=ROWS.shape).astype(np.float32)

    def total(step: float) -> float:
        return float(LOGPROBS(PARAMS, PROMPT, COMPLETION, ROWS + step * direction).sum())

    expected = (total(1e-3) - total(-1e-3)) / 2e-3
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-2)
    assert (jnp.linalg.norm(gradient[:-1], axis=1) > 0.01).all()
    np.testing.assert_array_equal(gradient[-1], 0)  # nothing is predicted after the last


def test_the_same_token_twice_has_two_gradients() -> None:
    gradient = embedding_gradient_of(Backend.REFERENCE)(PARAMS, PROMPT, COMPLETION)
    assert IDS[0] == IDS[4]
    assert float(jnp.abs(gradient[0] - gradient[4]).max()) > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_adapters_side_by_side_are_each_merged_alone(backend: Backend) -> None:
    params = pack_params(PARAMS) if backend.packs_weights else PARAMS
    stack = random_adapters(MODEL, 3, jax.random.key(1))
    found = jax.jit(functools.partial(logprobs_by_adapter, MODEL.on(backend)))(
        params, stack, PROMPT, COMPLETION
    )
    config = LoraConfig(rank=4, alpha=4.0, targets=("wq", "wv"))
    alone = [
        LOGPROBS(merge_adapter(PARAMS, from_stack(config, stack, i)), PROMPT, COMPLETION).sum()
        for i in range(3)
    ]
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    assert len(set(np.round(alone, 2).tolist())) == 3


def test_jacobian_by_a_steering_vector() -> None:
    directions = jnp.eye(48)  # the whole vector
    jacobian = jax.jit(functools.partial(steering_jacobian, MODEL, layer=0))(
        PARAMS, directions=directions, prompt=PROMPT, completion=COMPLETION
    )
    assert jacobian.shape == (3, 48)
    direction = np.random.default_rng(0).normal(size=48).astype(np.float32)

    def along(step: float) -> jax.Array:
        params = steered(PARAMS, 0, jnp.asarray(step * direction))
        return LOGPROBS(params, PROMPT, COMPLETION)

    expected = (along(1e-2) - along(-1e-2)) / 2e-2
    np.testing.assert_allclose(jacobian @ direction, expected, rtol=2e-2, atol=1e-3)
    assert float(jnp.abs(expected).max()) > 0.05


def test_forward_mode_is_reverse_mode() -> None:
    def along(vector: jax.Array) -> jax.Array:
        return completion_logprobs(MODEL, steered(PARAMS, 1, vector), PROMPT, COMPLETION)

    at = jnp.zeros(48)
    forward, reverse = jax.jit(jax.jacfwd(along))(at), jax.jit(jax.jacrev(along))(at)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_example_on_smollm2(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert "' France'" in printed
    assert "nan" not in printed
