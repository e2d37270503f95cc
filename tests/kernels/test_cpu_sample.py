"""The C++ sampling = the reference, on each instruction set; a row's token is its own.

With noise, two tokens may be as good as equal: where the reference's two largest are closer than
1e-4, more than its logarithms and ours differ, either will do. At a filter's threshold sums may
round to either side: the cases keep theirs away from one.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxen.token_sampling
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.token_sampling import reference
from tests.kernels.on_cpu import sample
from tests.kernels.pairwise import ISAS, THREADS, pairwise

RNG = np.random.default_rng(7)
S = 64
SIZES = (1, 7, 8, 63, 64, 300, 1029, 49152)
_reference = jax.jit(reference.sample)
_perturbed = jax.jit(reference.perturbed)

Settings = dict[str, np.ndarray]


def settings_of(num_rows: int, **changes: Any) -> Settings:
    """Arguments of `sample` for every row: greedy, but for the changes."""
    same = {
        "temperature": np.zeros(num_rows, np.float32),
        "top_k": np.zeros(num_rows, np.int32),
        "top_p": np.ones(num_rows, np.float32),
        "min_p": np.zeros(num_rows, np.float32),
        "seed": np.stack([np.arange(num_rows), np.full(num_rows, 5)], axis=1).astype(np.uint32),
        "position": np.full(num_rows, 9, np.int32),
        "active": np.ones(num_rows, bool),
    }
    for name, value in changes.items():
        same[name] = np.broadcast_to(np.asarray(value, same[name].dtype), same[name].shape).copy()
    return same


def mixed(num_rows: int) -> Settings:
    """Every kind of row beside every other."""
    row = np.arange(num_rows)
    return settings_of(
        num_rows,
        temperature=np.array([0, 0.7, 1, 3])[row % 4],
        top_k=np.array([0, 1, 20, 700, 0])[row % 5],
        top_p=np.array([1, 0.8, 1, 0.97, 0.3, 1])[row % 6],
        min_p=np.array([0, 0, 0.01, 0, 1e-6, 0, 0])[row % 7],
        active=row % 11 != 3,
    )


def normal(num_rows: int, vocab_size: int, scale: float = 3) -> np.ndarray:
    return (RNG.standard_normal((num_rows, vocab_size)) * scale).astype(np.float32)


def run(logits: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    tokens, finite = jax.jit(sample)(logits, **settings)
    return np.asarray(tokens), np.asarray(finite)


def check(logits: np.ndarray, settings: Settings) -> int:
    """Checks that the kernel chooses as the reference; returns how many rows were no close call."""
    tokens, finite = run(logits, settings)
    expected, expected_finite = map(np.asarray, _reference(logits, **settings))
    np.testing.assert_array_equal(finite, expected_finite)
    differ = tokens != expected
    of_noise = {name: settings[name] for name in settings if name != "active"}
    perturbed = np.asarray(_perturbed(logits, **of_noise))
    lines = np.arange(len(logits))
    gap = perturbed.max(axis=-1) - perturbed[lines, tokens]
    may_differ = (settings["temperature"] > 0) & settings["active"] & (gap < 1e-4)
    assert (may_differ | ~differ).all()
    return int((~differ).sum())


@pytest.mark.parametrize("vocab_size", SIZES)
def test_greedy_is_the_first_largest(isa: str, vocab_size: int) -> None:
    logits = np.round(normal(S, vocab_size))  # many are equal
    tokens, finite = run(logits, settings_of(S))
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))
    assert finite.all()


@pytest.mark.parametrize("vocab_size", SIZES)
def test_a_mix_of_settings_equals_the_reference(isa: str, vocab_size: int) -> None:
    assert check(normal(S, vocab_size), mixed(S)) >= S - 1


FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 33},
    {"top_k": 299},
    {"top_k": 2**31 - 1},
    {"top_p": 0},
    {"top_p": 1e-45},
    {"top_p": 0.11},
    {"top_p": 0.5},
    {"top_p": 0.93},
    {"top_p": 0.9999},
    {"min_p": 1.0},
    {"min_p": 0.2},
    {"min_p": 1e-30},
    {"min_p": 0.001, "top_k": 40, "top_p": 0.9},
    {"min_p": 0.001, "top_p": 0.9},
    {"top_k": 40, "top_p": 0.9},
]


@pairwise({"isa": ISAS, "vocab_size": [300, 1029], "changes": FILTERS})
def test_filters_equal_the_reference(isa: str, vocab_size: int, changes: dict[str, Any]) -> None:
    """Over many seeds, so that a token too many or too few shows; with forbidden and equal ones."""
    for temperature in (0.5, 1.0, 20.0):
        settings = settings_of(S, temperature=temperature, **changes)
        logits = normal(S, vocab_size)
        logits[::4] = np.round(logits[::4])
        logits[1::4] = logits[1]
        logits[RNG.random(logits.shape) < 0.3] = -np.inf
        logits[:, 0] = 4.0  # at least one is possible
        assert check(logits, settings) >= S - 1


@pytest.mark.parametrize("num_kept", [1, 3, 40, 400])
def test_just_the_kept_are_drawn(isa: str, num_kept: int) -> None:
    """Nearly flat, hot, and of few tokens: all that are kept come up, and no other."""
    probabilities = np.sort(RNG.uniform(1, 1.2, 500))[::-1] / 550
    share = (probabilities[:num_kept].sum() - probabilities[num_kept - 1] / 2) / probabilities.sum()
    order = RNG.permutation(500)
    logits = np.zeros((4096, 500), np.float32)
    logits[:, order] = np.log(probabilities)
    kept = set(order[:num_kept].tolist())
    for changes in ({"top_k": num_kept}, {"top_p": share}):
        settings = settings_of(4096, temperature=1, position=np.arange(4096), **changes)
        found = set(run(logits, settings)[0].tolist())
        assert found == kept if num_kept <= 40 else found <= kept and len(found) > 350


def test_a_row_has_the_same_token_in_any_batch(isa: str, num_threads: int) -> None:
    logits, settings = normal(S, 1029), mixed(S)
    tokens, finite = run(logits, settings)
    order = RNG.permutation(S)
    again, finite_again = run(logits[order], {k: v[order] for k, v in settings.items()})
    np.testing.assert_array_equal(again, tokens[order])
    np.testing.assert_array_equal(finite_again, finite[order])
    cpu_library.start(num_threads=1)
    np.testing.assert_array_equal(run(logits, settings)[0], tokens)
    for row in (0, 1, 13, 63):
        alone = {k: v[row : row + 1] for k, v in settings.items()}
        assert run(logits[row : row + 1], alone)[0][0] == tokens[row]


@pairwise({"isa": ISAS, "num_threads": THREADS, "temperature": [1e-30, 1e30]})
def test_extreme_temperatures_do_not_depend_on_the_thread(
    isa: str, num_threads: int, temperature: float
) -> None:
    """Differences over 1e30 are below the normal floats, which some threads might round to 0."""
    logits = normal(4096, 300, 1e-9)  # so many that each thread gets some
    logits[:, 5] = 1e-8
    for changes in ({}, {"top_k": 1}, {"top_p": 0.5}):
        settings = settings_of(4096, temperature=temperature, **changes)
        cpu_library.start(num_threads=num_threads)
        tokens, _ = run(logits, settings)
        cpu_library.start(num_threads=1)
        np.testing.assert_array_equal(run(logits, settings)[0], tokens)
        if temperature < 1:
            assert (tokens == np.argmax(logits, axis=-1)).all()


@pairwise({"isa": ISAS, "at": [0, 8, 255, 299], "bad": [np.nan, np.inf, -np.inf]})
def test_what_is_not_finite_is_said_and_stays_in_its_row(isa: str, bad: float, at: int) -> None:
    logits, settings = normal(22, 300), mixed(22)
    clean, _ = run(logits, settings)
    dirty = logits.copy()
    dirty[[1, 6, 7]] = np.where(np.arange(300)[None] == at, bad, dirty[[1, 6, 7]])
    dirty[12] = bad
    tokens, finite = run(dirty, settings)
    assert np.flatnonzero(~finite).tolist() == [1, 3, 6, 7, 12, 14]  # 3 and 14 are inactive
    others = finite
    np.testing.assert_array_equal(tokens[others], clean[others])
    assert ((tokens >= 0) & (tokens < 300)).all()
    if bad == -np.inf:
        check(np.where((np.arange(22) == 12)[:, None], 0.0, dirty).astype(np.float32), settings)


def test_inactive_rows_are_zero(isa: str) -> None:
    logits = np.full((5, 40), np.nan, np.float32)
    tokens, finite = run(logits, settings_of(5, temperature=1, top_p=0.5, active=False))
    assert tokens.tolist() == [0] * 5
    assert not finite.any()
    assert run(logits[:0], settings_of(0))[0].shape == (0,)


def test_the_library_takes_part(isa: str) -> None:
    """What these tests compare is not the reference with itself."""
    lowered = jax.jit(sample).lower(normal(2, 30), **settings_of(2)).as_text()
    assert "flaxen_sample" in lowered


def test_under_vmap(isa: str) -> None:
    logits, settings = normal(6, 77), mixed(6)
    folded = {k: v.reshape(2, 3, *v.shape[1:]) for k, v in settings.items()}
    names = list(folded)
    call = jax.vmap(lambda x, *values: sample(x, **dict(zip(names, values, strict=True))))
    tokens, _ = call(jnp.asarray(logits.reshape(2, 3, 77)), *map(jnp.asarray, folded.values()))
    np.testing.assert_array_equal(np.asarray(tokens).ravel(), run(logits, settings)[0])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "top_k",
            np.zeros(3, np.int32),
            r"top_k as int32 \[2\] for logits \[2, 30\], got int32",
        ),
        ("seed", np.zeros((2, 3), np.uint32), r"seed as uint32 \[2, 2\] .* got uint32 \[2, 3\]"),
        ("logits", np.zeros((2, 0), np.float32), "at least one token, got a vocabulary of 0"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: np.ndarray, message: str) -> None:
    args = {"logits": normal(2, 30), **settings_of(2)}
    args[name] = value
    unchecked = inspect.unwrap(
        flaxen.token_sampling.sample
    )  # under pytest annotations are checked first
    with pytest.raises(ValueError, match=message):
        unchecked(**jax.tree.map(jnp.asarray, args), backend=Backend.CPU)
