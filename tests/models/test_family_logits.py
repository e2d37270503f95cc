"""Each row of the table of families through XLA: transformers' logits, and a gradient that is right
by finite differences and is that of the C++ kernels. And those that tests/parity/test_families.py
does not compile as users do, served through these.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.data.batch import Batch
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.model import Params
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.family_table import AS_USERS, NAMES, row_of
from tests.models.family_table.chains import chains
from tests.models.family_table.checkpoint import made
from tests.models.family_table.equalities import Equalities
from tests.models.family_table.trained import batch_of, by_name, moved, step_of
from tests.models.golden import logits_of

TOLERANCE = 2e-4
QUICK = tuple(name for name in NAMES if name not in AS_USERS)
needs_kernels = pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
LENGTHS = (21, 11)  # of the sequences that are trained


class Trained(NamedTuple):
    params: Params
    step: Callable[[Params], Any]  # the loss with the log-probabilities, and the gradient
    gradient: Params


@functools.cache
def trained(name: str) -> Trained:
    checkpoint = open_checkpoint(made(row_of(name)).directory)
    params = checkpoint.load_params(jnp.dtype("float32"))
    step = functools.partial(step_of(name, checkpoint.model.backend), batch=batch(name))
    _, gradient = step(params)
    return Trained(params, step, gradient)


def batch(name: str) -> Batch:
    tokens = made(row_of(name)).tokens.tolist()
    return batch_of([tuple(tokens[:length]) for length in LENGTHS])


def size_of(leaves: list[np.ndarray]) -> float:
    """The length of all the numbers as one vector."""
    return float(np.sqrt(sum(float(np.vdot(leaf, leaf)) for leaf in leaves)))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_transformers(name: str) -> None:
    expected = made(row_of(name))
    checkpoint = open_checkpoint(expected.directory)
    params = checkpoint.load_params(jnp.dtype("float32"))
    assert expected.logits.std() > 1  # a tolerance means nothing on logits near 0
    found = logits_of(checkpoint.model, params, expected.tokens)
    np.testing.assert_allclose(found, expected.logits, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    """Along the gradient of each parameter's name, by the step in which the loss changes most."""
    params, step, gradient = trained(name)
    leaves_of = by_name(gradient)
    assert all(np.isfinite(leaf).all() for leaves in leaves_of.values() for leaf in leaves)
    sizes = {param: size_of(leaves) for param, leaves in leaves_of.items()}
    whole = np.sqrt(sum(size**2 for size in sizes.values()))
    for param, slope in sizes.items():
        if param == "b_router_selection":  # it decides which experts are chosen, and nothing else
            assert slope == 0
            continue
        assert slope > 0, f"{param} has no gradient"
        size = size_of(by_name(params)[param])
        # Far enough for float32's rounding of the loss, near enough for a straight line.
        distance = min(3e-3 / slope, 1e-2 * max(size, 1))
        # Without rope, a bias of the keys adds the same to all scores, and changes nothing.
        tolerance = 0.02 * slope + 1e-5 * whole
        found = difference(step, params, param, gradient, distance, slope)
        if abs(found - slope) > tolerance:  # another choice of experts lies on the way
            found = difference(step, params, param, gradient, distance / 30, slope)
        assert found == pytest.approx(slope, rel=0, abs=tolerance), param


def difference(
    step: Callable[[Params], Any],
    params: Params,
    param: str,
    gradient: Params,
    distance: float,
    slope: float,
) -> float:
    """The slope of the loss between two points that lie `distance` to both sides."""
    (ahead, _), _ = step(moved(params, param, gradient, distance / slope))
    (behind, _), _ = step(moved(params, param, gradient, -distance / slope))
    return (float(ahead) - float(behind)) / (2 * distance)


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_cpp_kernels_is_that_of_xla(name: str) -> None:
    params, _, gradient = trained(name)
    _, found = step_of(name, Backend.CPU)(params, batch(name))
    ours, theirs = by_name(found), by_name(gradient)
    rounding = 1e-6 * max(np.abs(leaf).max() for leaves in theirs.values() for leaf in leaves)
    assert ours.keys() == theirs.keys()
    for param, leaves in theirs.items():
        for one, other in zip(ours[param], leaves, strict=True):
            atol = max(1e-4 * float(np.abs(other).max()), rounding)
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=atol, err_msg=param)


@pytest.fixture(params=QUICK, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@needs_kernels
class TestServed(Equalities):
    pass


@needs_kernels
def test_nothing_is_compiled_for_a_row_alone_that_is_not_tested_as_users_compile() -> None:
    """If this fails for a new row: add it to AS_USERS."""
    tested = set().union(*(chains(row_of(name)) for name in AS_USERS))
    assert tested
    assert {name: left for name in QUICK if (left := chains(row_of(name)) - tested)} == {}
