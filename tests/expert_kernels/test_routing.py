"""The router: in plain jnp, and in C++ with the same choice; ties; groups; gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flaxen.expert_kernels.routing import RoutingSpec, route
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from tests.expert_kernels.expert_layers import random

SPECS = {
    "softmax": RoutingSpec(k=2),
    "softmax, as they are": RoutingSpec(k=3, normalize=False, scale=0.5),
    "softmax, best of groups": RoutingSpec(k=3, num_groups=4, groups_used=2, normalize=False),
    "sigmoid": RoutingSpec(k=1, score="sigmoid", normalize=False),
    "sigmoid, groups": RoutingSpec(
        k=4, score="sigmoid", epsilon=1e-20, scale=2.5, num_groups=3, groups_used=2, group_best=2
    ),
}
BACKENDS = [Backend.REFERENCE] + [Backend.CPU] * cpu_library.is_built()


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_chooses_as_a_plain_loop_does(spec: RoutingSpec, has_bias: bool, backend: Backend) -> None:
    logits = np.asarray(random(1, 40, 12), np.float64)
    bias = np.asarray(random(2, 12), np.float64) * 0.3 if has_bias else None
    given = None if bias is None else jnp.asarray(bias, jnp.float32)
    ids, weights = route(jnp.asarray(logits, jnp.float32), given, spec, backend=backend)
    for row, own, own_weights in zip(logits, ids, weights, strict=True):
        scores = 1 / (1 + np.exp(-row)) if spec.score == "sigmoid" else np.exp(row)
        if spec.score == "softmax":
            scores = scores / scores.sum()
        choice = scores if bias is None else scores + bias
        groups = np.sort(choice.reshape(spec.num_groups, -1))[:, -spec.group_best :].sum(axis=1)
        used = np.argsort(-groups)[: spec.groups_used]
        allowed = np.isin(np.arange(12) // (12 // spec.num_groups), used)
        expected = np.argsort(-np.where(allowed, choice, -np.inf))[: spec.k]
        assert own.tolist() == expected.tolist()
        found = scores[expected]
        found = found / (found.sum() + spec.epsilon) if spec.normalize else found
        np.testing.assert_allclose(own_weights, found * spec.scale, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_scores_the_first_expert_is_chosen(backend: Backend) -> None:
    logits = jnp.asarray([[1.0, 2, 2, 2, 0], [0, 0, 0, 0, 0], [-1e4, 9e3, 9e3, 1e4, -1e4]])
    ids, weights = route(logits, None, RoutingSpec(k=2), backend=backend)
    assert ids.tolist() == [[1, 2], [0, 1], [3, 1]]
    np.testing.assert_array_equal(weights, [[0.5, 0.5], [0.5, 0.5], [1, 0]])


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_have_the_gradient_of_finite_differences(
    spec: RoutingSpec, backend: Backend
) -> None:
    logits, bias = random(3, 5, 12), random(4, 12)

    def loss(logits: jax.Array) -> jax.Array:
        weights = route(jnp.asarray(logits), bias, spec, backend=backend)[1]
        return jnp.sum(weights * jnp.arange(1.0, spec.k + 1)[None])

    check_grads(loss, (logits,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
def test_a_rows_bits_are_its_own() -> None:
    logits = random(5, 37, 12)
    for spec in SPECS.values():
        together = route(logits, None, spec, backend=Backend.CPU)
        alone = route(logits[30:31], None, spec, backend=Backend.CPU)
        for one, other in zip(together, alone, strict=True):
            assert np.asarray(one[30:31]).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "a token must use at least one expert, got 0"),
        ({"k": 1, "score": "tanh"}, "score 'tanh' is not supported: use softmax or sigmoid"),
        ({"k": 1, "groups_used": 2}, "2 of 1 groups, by the sum of their 1 best experts"),
    ],
)
def test_settings_that_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoutingSpec(**fields)  # type: ignore[arg-type]


def test_experts_that_do_not_fit_are_refused() -> None:
    logits = jnp.zeros((1, 6))
    with pytest.raises(ValueError, match="6 experts can't be divided into 4 equal groups"):
        route(logits, None, RoutingSpec(k=1, num_groups=4), backend=Backend.REFERENCE)
    with pytest.raises(ValueError, match=r"can't use 4 of 3 experts \(groups of 3\)"):
        route(logits, None, RoutingSpec(k=4, num_groups=2), backend=Backend.REFERENCE)
