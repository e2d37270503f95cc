"""Logits to tokens, against a plain NumPy re-implementation, and the draw against its distribution.

The critical values of chi-square are those of a probability of one in ten thousand; seeds are
fixed, so that a test always gives the same.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.rows import RowBias, Rows, RowSettings, row_bias, row_settings, with_seed
from flaxen.execution.sampling import OK, BatchNeeds, Sampled, sample
from flaxen.kernels.backend import Backend
from flaxen.scheduling.executor import RowFailure
from flaxen.scheduling.sequence import Sequence
from flaxen.token_sampling.logprobs import compute_logprobs
from tests.engine.fakes import chi_square, sequence_of, spelled

EOS = (2,)
LENGTH = 24
S, V = 64, 300  # of the batches of different settings
NUM = 8192  # of the batches of equal ones
ALL = BatchNeeds(*np.ones(2, bool))
NOT_FINITE, IMPOSSIBLE = RowFailure.NOT_FINITE.value, RowFailure.NO_TOKEN_ALLOWED.value
_sample = jax.jit(functools.partial(sample, backend=Backend.REFERENCE), static_argnums=6)


def load(sequences: list[Sequence], vocab_size: int) -> Rows:
    """Rows that hold the sequences, in their order."""
    settings = [
        with_seed(
            row_settings(s.sampling, s.num_prompt_tokens, spelled(s.sampling.bad_words), EOS),
            s.seed,
        )
        for s in sequences
    ]
    tokens = np.zeros((len(sequences), LENGTH), np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence.tokens)] = sequence.tokens
    biases = [row_bias(s.sampling, vocab_size) for s in sequences]
    stacked = RowSettings(*(jnp.asarray(np.stack(field)) for field in zip(*settings, strict=True)))
    bias = RowBias(*(jnp.asarray(np.stack(field)) for field in zip(*biases, strict=True)))
    return Rows(stacked, bias, jnp.asarray(tokens))


def draw(
    sequences: list[Sequence],
    logits: np.ndarray,
    *,
    needs: BatchNeeds = ALL,
    order: np.ndarray | None = None,
    finite: np.ndarray | None = None,
) -> Sampled:
    """Samples up to 64 sequences, one line of logits each; `order` is their place in the batch.

    Padded to one shape, since each is seconds to compile.
    """
    num, vocab_size = logits.shape
    order = np.arange(num) if order is None else order
    finite = np.ones(num, bool) if finite is None else finite
    all_logits = np.full((S, V), -1e30, np.float32)
    all_logits[:num, :vocab_size] = logits[order]
    all_finite = np.zeros(S, bool)
    all_finite[:num] = finite[order]
    row_ids = np.zeros(S, np.int32)
    row_ids[:num] = order
    rows = load([*sequences, *[sequence_of([1])] * (S - num)], V)
    lengths = np.array([len(sequences[row].tokens) for row in row_ids], np.int32)
    sampled = _sample(all_logits, all_finite, rows, row_ids, lengths, needs, 4)
    return jax.tree.map(lambda x: np.asarray(x)[:num], sampled)


def adjusted(sequence: Sequence, logits: np.ndarray) -> np.ndarray:
    """What a sequence's settings make of its logits [V], said as plainly as can be."""
    sampling = sequence.sampling
    logits = logits.astype(np.float32).copy()
    prompt = sequence.tokens[: sequence.num_prompt_tokens]
    output = sequence.tokens[sequence.num_prompt_tokens :]
    for token in range(len(logits)):
        if sampling.allowed_token_ids is not None and token not in sampling.allowed_token_ids:
            logits[token] = -np.inf
        logits[token] += np.float32((sampling.logit_bias or {}).get(token, 0))
    for *before, last in spelled(sampling.bad_words):
        if not before or output[-len(before) :] == before:
            logits[last] = -np.inf
    if len(output) < sampling.min_tokens:
        logits[list(sampling.stop_token_ids)] = -np.inf
        if not sampling.ignore_eos:
            logits[list(EOS)] = -np.inf
    for token in set(prompt + output):
        factor = np.float32(sampling.repetition_penalty)
        logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(output):
        logits[token] -= np.float32(sampling.frequency_penalty) * np.float32(output.count(token))
        logits[token] -= np.float32(sampling.presence_penalty)
    return logits


CHANGES: dict[str, Any] = {
    "nothing": lambda rng: {},
    "presence": lambda rng: {"presence_penalty": rng.choice([-2, 0.7, 2.0])},
    "frequency": lambda rng: {"frequency_penalty": rng.choice([-2, 0.7, 2.0])},
    "repetition": lambda rng: {"repetition_penalty": rng.choice([0.3, 1.4, 5.0])},
    "bias": lambda rng: {"logit_bias": {int(i): float(rng.normal() * 3) for i in range(0, 30, 2)}},
    "allowed": lambda rng: {"allowed_token_ids": tuple(rng.choice(30, 5, replace=False).tolist())},
    "min tokens": lambda rng: {"min_tokens": 4, "stop_token_ids": rng.choice(30, 9).tolist()},
    "ignored eos": lambda rng: {
        "min_tokens": 4,
        "ignore_eos": True,
        "stop_token_ids": rng.choice(30, 9).tolist(),
    },
    "bad words": lambda rng: {},
}


@pytest.mark.parametrize("change", [*CHANGES, "all at once"])
def test_greedy_is_the_largest_of_the_adjusted_logits(change: str) -> None:
    rng = np.random.default_rng(sum(map(ord, change)))
    sequences = []
    for _ in range(4 * S):
        names = list(CHANGES) if change == "all at once" else [change]
        asked = {k: v for name in names for k, v in CHANGES[name](rng).items()}
        num_prompt, num_output = rng.integers(1, 9), rng.integers(0, 9)
        tokens = rng.integers(0, 30, num_prompt + num_output).tolist()
        words = [rng.integers(0, 30, n).tolist() for n in (1, 1, 2, 2, 2, 3)]
        words += [[*tokens[-2:], int(rng.integers(30))], [*tokens[-15:], 5]]
        bad = tuple(map(tuple, words)) if "bad words" in names else ()
        asked |= {"temperature": 0, "max_tokens": None}
        sequences.append(sequence_of(tokens, int(num_prompt), bad, **asked))
    logits = rng.standard_normal((4 * S, 30)).astype(np.float32)
    expected = [
        int(np.argmax(adjusted(s, line))) for s, line in zip(sequences, logits, strict=True)
    ]
    parts = [slice(at, at + S) for at in range(0, 4 * S, S)]
    found = [draw(sequences[part], logits[part]).tokens for part in parts]
    assert np.concatenate(found).tolist() == expected
    num_changed = int((np.argmax(logits, axis=-1) != np.array(expected)).sum())
    assert (num_changed > 12) == (change != "nothing")


def test_bad_words_count_in_the_output_only() -> None:
    logits = np.tile(np.float32([0, 1, 2, 3, 9]), (6, 1))
    cases = [  # tokens, of which prompt, words, what is sampled
        ([1, 2], 1, ((4,),), 3),
        ([1, 2], 1, ((2, 4),), 3),
        ([1, 2], 2, ((2, 4),), 4),  # the 2 is the prompt's
        ([1, 2, 3], 1, ((2, 3, 4),), 3),
        ([1, 2, 3], 2, ((2, 3, 4),), 4),  # half of it is
        ([1, 3], 1, ((2, 4), (3, 4), (1, 4)), 3),
    ]
    sequences = [sequence_of(tokens, num, words, temperature=0) for tokens, num, words, _ in cases]
    found = draw(sequences, logits)
    assert found.tokens.tolist() == [expected for *_, expected in cases]


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.float32([[0, 5, 5, 5], [7, 7, 7, 7], [-1, -3, -1, -2]])
    found = draw([sequence_of([1], temperature=0)] * 3, logits)
    assert found.tokens.tolist() == [1, 0, 0]


def test_a_row_without_a_token_says_why() -> None:
    logits = np.zeros((7, 30), np.float32)
    logits[2, 7], logits[3, 7], logits[6] = np.nan, np.inf, np.nan
    sequences = [sequence_of([1]) for _ in range(7)]
    sequences[1] = sequence_of([1], allowed_token_ids=(2,), min_tokens=1)
    sequences[4] = sequence_of([1], words=((5,),), allowed_token_ids=(5,), temperature=0)
    sequences[6] = sequence_of([1], allowed_token_ids=(5,), logit_bias={5: 3})
    finite = np.arange(7) != 5
    found = draw(sequences, logits, finite=finite)
    assert found.status.tolist() == [
        OK, IMPOSSIBLE, NOT_FINITE, NOT_FINITE, IMPOSSIBLE, NOT_FINITE, NOT_FINITE,
    ]  # fmt: skip


def test_logprobs_are_the_models_own() -> None:
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal((64, 300)) * 4).astype(np.float32)
    logits[0, [7, 250, 9]] = 20.0  # equals: the lower id first
    exact = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=-1, keepdims=True))
    sequences = [
        sequence_of([7, 8], 1, temperature=t, seed=i, top_k=3, logit_bias={i: 50.0})
        for i, t in enumerate(np.repeat([0.0, 1.0], 32).tolist())
    ]
    found = draw(sequences, logits)
    assert found.tokens.tolist() == list(range(64))
    for i, (line, raw) in enumerate(zip(exact, logits, strict=True)):
        assert abs(found.logprobs.logprob[i] - line[i]) < 4e-6
        assert found.logprobs.rank[i] == 1 + (raw > raw[i]).sum()
        likeliest = np.argsort(-raw, kind="stable")[:4]
        assert found.logprobs.top_ids[i].tolist() == likeliest.tolist()
        np.testing.assert_allclose(
            found.logprobs.top_logprobs[i], line[likeliest], atol=4e-6, rtol=0
        )
    assert found.logprobs.top_ids[0, :3].tolist() == [7, 9, 250]
    run = jax.jit(functools.partial(compute_logprobs, backend=Backend.REFERENCE), static_argnums=2)
    scored = run(jnp.asarray(logits), jnp.asarray(found.tokens), 4)
    jax.tree.map(np.testing.assert_array_equal, scored, found.logprobs)


def test_no_logprobs_where_none_are_wanted() -> None:
    needs = ALL._replace(logprobs=np.bool_(False))
    found = draw([sequence_of([1])] * 2, np.ones((2, 30), np.float32), needs=needs)
    assert not any(field.any() for field in jax.tree.leaves(found.logprobs))


def test_a_row_is_its_own_wherever_it_is() -> None:
    """Neither its place nor what the others ask for changes a token, nor a bit of its logprobs."""
    rng = np.random.default_rng(8)
    sequences = [
        sequence_of([5, 6, 7], 1, seed=i, temperature=[0, 0.7, 1.0, 3.0][i % 4]) for i in range(32)
    ]
    sequences += [
        sequence_of([5, 6, 7], 1, seed=i, top_p=0.8, top_k=9, min_p=0.02, logit_bias={i: 6.0})
        for i in range(32)
    ]
    logits = (rng.standard_normal((64, 300)) * 2).astype(np.float32)
    found = draw(sequences, logits)
    order = rng.permutation(64)
    shuffled = draw(sequences, logits, order=order)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), found, shuffled)
    plain = BatchNeeds(*map(np.bool_, (False, True)))  # all that the first half asks for
    fewer = draw(sequences, logits, needs=plain)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:32], b[:32]), found, fewer)
    assert (found.tokens[32:] != fewer.tokens[32:]).any()


def many_draws(
    logits: np.ndarray, seeds: Any = 0, positions: Any = 1, **sampling: Any
) -> np.ndarray:
    """What is drawn with NUM seeds, or at NUM positions. A logit of -inf is one forbidden."""
    possible = np.flatnonzero(logits != -np.inf).tolist()
    allowed_ids = set(possible) & set(sampling.pop("allowed_token_ids", possible))
    one = load([sequence_of([1], allowed_token_ids=tuple(allowed_ids), **sampling)], len(logits))
    seeds = jnp.broadcast_to(jnp.asarray(seeds, jnp.uint32), NUM)
    settings = one.settings._replace(seed=jnp.stack([seeds, seeds * 0], axis=1))

    def repeated(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (NUM, *x.shape[1:]))

    settings, bias = jax.tree.map(repeated, (settings, one.bias))
    rows = Rows(settings, bias, jnp.zeros((NUM, 2), jnp.int32))
    needs = BatchNeeds(*map(np.bool_, (True, False)))
    allowed = jnp.where(jnp.isinf(logits), 0, jnp.asarray(logits, jnp.float32))
    lines = jnp.broadcast_to(allowed, (NUM, len(logits)))
    positions = jnp.broadcast_to(jnp.asarray(positions, jnp.int32), NUM)
    found = _sample(lines, jnp.ones(NUM, bool), rows, jnp.arange(NUM), positions, needs, 1)
    assert (np.asarray(found.status) == OK).all()
    return np.asarray(found.tokens)


def counts_of(logits: np.ndarray, **sampling: Any) -> np.ndarray:
    """How often each token is drawn over many seeds."""
    return np.bincount(many_draws(logits, np.arange(NUM), **sampling), minlength=len(logits))


SMALL_LOGITS = np.float32([0.3, -1.0, 1.2, 0.0, -np.inf, 0.9, -2.5, 0.2])


def distribution(logits: np.ndarray, temperature: float, keep: int | None = None) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    if keep is not None:
        scaled = np.where(scaled >= np.sort(scaled)[-keep], scaled, -np.inf)
    mass = np.exp(scaled - scaled.max())
    return np.asarray(mass / mass.sum())


@pytest.mark.parametrize(
    ("sampling", "temperature", "keep"),
    [
        ({}, 1.0, None),
        ({"temperature": 0.5}, 0.5, None),
        ({"temperature": 3.0}, 3.0, None),
        ({"top_k": 3}, 1.0, 3),
        ({"top_p": 0.6}, 1.0, 3),  # the likeliest hold 0.34, 0.25 and 0.14: two are not enough
        ({"min_p": 0.4}, 1.0, 3),
        ({"temperature": 2.0, "min_p": 0.5, "top_k": 6, "top_p": 0.79}, 2.0, 4),
    ],
)
def test_the_draw_follows_the_distribution(
    sampling: dict[str, Any], temperature: float, keep: int | None
) -> None:
    counts = counts_of(SMALL_LOGITS, **sampling)
    expected = distribution(SMALL_LOGITS, temperature, keep)
    degrees = (expected > 0).sum() - 1
    critical = {1: 15.1, 2: 18.4, 3: 21.1, 6: 27.9}[degrees]
    assert chi_square(counts, expected) < critical


def test_the_draw_follows_the_distribution_of_a_large_vocabulary() -> None:
    """More than one block of the two-level sum, the last one not full."""
    rng = np.random.default_rng(4)
    logits = (rng.standard_normal(700) * 2).astype(np.float32)
    logits[rng.random(700) < 0.3] = -np.inf
    expected, counts = distribution(logits, 1.0), counts_of(logits)
    assert counts[expected == 0].sum() == 0
    order = np.argsort(-expected)  # all but 99 share a bin, so that each expects some
    merged = np.add.reduceat(counts[order], np.arange(100))
    assert chi_square(merged, np.add.reduceat(expected[order], np.arange(100))) < 157.0


@pytest.mark.parametrize("moves", ["seeds", "positions"])
def test_numbers_in_a_row_are_independent(moves: str) -> None:
    """One request's tokens have positions in a row, its n sequences have seeds in a row."""
    tokens = many_draws(np.zeros(8), **{"seeds": 77, moves: np.arange(NUM)})
    assert chi_square(np.bincount(tokens, minlength=8), np.full(8, 1 / 8)) < 29.9
    for lag in (1, 2, 3, 16):
        pairs = np.bincount(tokens[lag:] * 8 + tokens[:-lag], minlength=64)
        assert chi_square(pairs, np.full(64, 1 / 64)) < 110.0


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_extreme_settings_give_a_possible_token(scale: float) -> None:
    logits = SMALL_LOGITS * np.float32(scale)
    for low in (1e-300, 1e-45, 1e-38, 1e-20):
        assert np.flatnonzero(counts_of(logits, temperature=low)).tolist() == [2]
        assert np.flatnonzero(counts_of(logits, top_p=low)).tolist() == [2]
    assert np.flatnonzero(counts_of(logits, top_p=0)).tolist() == [2]
    tied = np.where(logits == logits.max(), logits[5], logits)
    drawn = counts_of(tied, temperature=1e-300)
    assert np.flatnonzero(drawn).tolist() == [2, 5], "a draw among equals"
    flat = np.where(logits > -np.inf, 1 / 7, 0)
    for high in (1e30, 1e300):
        assert chi_square(counts_of(logits, temperature=high), flat) < 27.9
        counts = counts_of(logits, temperature=high, allowed_token_ids=(1, 6))
        assert np.flatnonzero(counts).tolist() == [1, 6]


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-300, 1e300])
def test_extreme_penalties_give_a_possible_token(temperature: float) -> None:
    logits = np.tile(np.float32([5, -5, 0, 9, 1, -1]), (2, 1))
    sequences = [
        sequence_of(
            [0, 1, 2, 3],
            temperature=temperature,
            repetition_penalty=p,
            top_p=0.5,
            allowed_token_ids=(0, 1, 2, 4, 5),
        )
        for p in (1e-300, 1e300)
    ]
    found = draw(sequences, logits)
    assert found.status.tolist() == [OK, OK]
    assert found.tokens[0] == 0 or temperature == 1e300  # 5 divided by next to nothing
    assert found.tokens[1] == 4 or temperature in (1.0, 1e300)
    assert set(found.tokens.tolist()) <= {0, 2, 4, 5, 1}


def test_nothing_without_mass_is_drawn() -> None:
    """Sums that round in blocks of 256: the token must have a mass, and be of the vocabulary."""
    rng = np.random.default_rng(2)
    for _ in range(2):
        logits = (rng.standard_normal(700) * 12).astype(np.float32)
        logits[rng.random(700) < 0.5] = -np.inf
        logits[-1] = -np.inf
        counts = counts_of(logits)
        assert counts[logits == -np.inf].sum() == 0
        assert counts.sum() == NUM
