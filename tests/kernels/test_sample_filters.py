"""top-k, top-p and min-p against a sort in NumPy, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.token_sampling import filters

filter_top_k = jax.jit(filters.filter_top_k)
filter_top_p = jax.jit(filters.filter_top_p)
filter_min_p = jax.jit(filters.filter_min_p)

V = 300
RNG = np.random.default_rng(5)
_NORMAL = RNG.standard_normal((12, V)) * np.linspace(0.1, 9, 12)[:, None]
LOGITS = {
    "any": _NORMAL,
    "ties": np.round(_NORMAL),
    "some forbidden": np.where(RNG.random((12, V)) < 0.7, -np.inf, _NORMAL),
    "one possible": np.where(np.arange(V) == np.arange(12)[:, None] * 7, _NORMAL, -np.inf),
    "all equal": np.full((12, V), -3.0),
    "far apart": _NORMAL * 1e30,
}


def kept(filtered: jax.Array, logits: np.ndarray) -> np.ndarray:
    """Which tokens a filter kept, after checking that it left their logits alone."""
    found = np.asarray(filtered)
    keeps = found > -np.inf
    np.testing.assert_array_equal(found[keeps], logits[keeps])
    return keeps


@pytest.mark.parametrize("case", LOGITS)
def test_top_k(case: str) -> None:
    logits = LOGITS[case].astype(np.float32)
    for k in (0, 1, 2, 17, V - 1, V, V + 9, 2**31 - 1):
        found = kept(filter_top_k(logits, jnp.full(12, k, jnp.int32)), logits)
        threshold = np.sort(logits, axis=-1)[:, -min(k, V) if k else 0, None]
        np.testing.assert_array_equal(found, (logits >= threshold) & (logits > -np.inf))


def by_sort(logits: np.ndarray, top_p: float) -> np.ndarray:
    """What top-p keeps of one row, where it is no close call."""
    mass = np.exp(logits.astype(np.float64) - logits.max())
    mass /= mass.sum()
    order = np.argsort(-logits, kind="stable")
    # Equal logits stay together: the sum counts all of a group.
    sums = np.array([mass[logits >= logits[token]].sum() for token in order])
    assert (np.abs(sums[sums < 1 - 1e-9] - top_p) > 1e-7).all() or top_p == 1, "too close to call"
    enough = np.flatnonzero(sums >= min(top_p, 1 - 1e-9))
    keeps: np.ndarray = logits >= logits[order[enough[0]]]
    return keeps & (logits > -np.inf)


@pytest.mark.parametrize("case", LOGITS)
def test_top_p(case: str) -> None:
    logits = LOGITS[case].astype(np.float32)
    for p in (1e-45, 1e-3, 0.1031, 0.5007, 0.9013, 0.99):
        found = kept(filter_top_p(logits, jnp.full(12, p, jnp.float32)), logits)
        expected = np.array([by_sort(row, p) for row in logits])
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        kept(filter_top_p(logits, jnp.ones(12)), logits), logits > -np.inf
    )


@pytest.mark.parametrize("case", LOGITS)
def test_min_p(case: str) -> None:
    logits = LOGITS[case].astype(np.float32)
    likelihood = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    for p in (0.0, 1e-30, 0.0113, 0.5, 1.0):
        found = kept(filter_min_p(logits, jnp.full(12, p, jnp.float32)), logits)
        np.testing.assert_array_equal(found, (likelihood >= p) & (logits > -np.inf))


def test_every_row_has_its_own() -> None:
    logits = np.tile(np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32)), (5, 1))
    top_k = kept(filter_top_k(logits, jnp.array([0, 1, 2, 3, 4])), logits)
    assert top_k.sum(axis=-1).tolist() == [4, 1, 2, 3, 4]
    top_p = kept(filter_top_p(logits, jnp.array([0.3, 0.6, 0.8, 0.95, 1.0])), logits)
    assert top_p.sum(axis=-1).tolist() == [1, 2, 3, 4, 4]
    min_p = kept(filter_min_p(logits, jnp.array([0.0, 0.2, 0.3, 0.6, 0.9])), logits)
    assert min_p.sum(axis=-1).tolist() == [4, 4, 3, 2, 1]


def test_what_reaches_top_p_exactly_is_enough() -> None:
    logits = np.zeros((1, 4), np.float32) + np.float32([1, 1, 0, -np.inf])
    mass = np.exp(np.float32([0, 0, -1]))
    share = float(mass[:2].sum() / mass.sum())
    assert kept(filter_top_p(logits, jnp.array([share - 1e-6])), logits)[0].tolist()[2] is False
    assert kept(filter_top_p(logits, jnp.array([share + 1e-6])), logits)[0].tolist()[2] is True
    halves = np.zeros((1, 4), np.float32)
    halves[0, 2:] = -np.inf
    quarters = np.float32([[0, 0, 0, 0]])
    assert kept(filter_top_p(halves, jnp.array([0.5])), halves).sum() == 2  # a tie, kept together
    assert kept(filter_top_p(quarters, jnp.array([0.25])), quarters).sum() == 4


def test_minus_zero_is_zero() -> None:
    logits = np.float32([[-0.0, 0.0, -1.0, -0.0]])
    assert kept(filter_top_k(logits, jnp.array([1])), logits)[0].tolist() == [1, 1, 0, 1]
    assert kept(filter_top_p(logits, jnp.array([0.01])), logits)[0].tolist() == [1, 1, 0, 1]
