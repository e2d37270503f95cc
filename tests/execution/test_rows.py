"""What a row is loaded with, and that loading one leaves the others alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.rows import (
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_STOP_IDS,
    NO_TOKEN,
    RowBias,
    RowSettings,
    allows,
    empty_rows,
    load_bias,
    load_row,
    row_bias,
    row_settings,
    with_seed,
)
from flaxen.protocol import MAX_SEED
from flaxen.scheduling.sequence import Sequence
from tests.engine.fakes import sequence_of, spelled

V = 40


def settings_of(sequence: Sequence, eos_ids: tuple[int, ...]) -> RowSettings:
    sampling = sequence.sampling
    words = spelled(sampling.bad_words)
    settings = row_settings(sampling, sequence.num_prompt_tokens, words, eos_ids)
    return with_seed(settings, sequence.seed)


def test_settings_of_a_sequence() -> None:
    sequence = sequence_of(
        [5, 6, 7, 8], 3, ((7,), (1, 2, 3)), seed=2**40 + 3,
        temperature=0.5, top_k=4, top_p=0.25, min_p=0.125,
        presence_penalty=1, frequency_penalty=-1, repetition_penalty=2, min_tokens=9,
        max_tokens=20, stop_token_ids=(4, 2, 4), logprob_token_ids=(9, 5),
    )  # fmt: skip
    found = settings_of(sequence, (2, 3))
    assert found.temperature == 0.5
    assert (found.top_k, found.top_p, found.min_p) == (4, 0.25, 0.125)
    penalties = found.presence_penalty, found.frequency_penalty, found.repetition_penalty
    assert penalties == (1, -1, 2)
    assert found.seed.tolist() == [3, 256]
    assert (found.num_prompt_tokens, found.min_length) == (3, 12)
    assert found.stop_ids[:4].tolist() == [2, 3, 4, NO_TOKEN]
    assert found.logprob_ids[:3].tolist() == [9, 5, NO_TOKEN]
    assert found.bad_words[0, -2:].tolist() == [NO_TOKEN, 7]
    assert found.bad_words[1, -4:].tolist() == [NO_TOKEN, 1, 2, 3]
    assert (found.bad_words[2:] == NO_TOKEN).all()
    assert not found.has_bias


def test_an_ignored_eos_may_be_sampled_at_once() -> None:
    sequence = sequence_of([5], ignore_eos=True, stop_token_ids=(4,))
    assert settings_of(sequence, (2, 3)).stop_ids[:2].tolist() == [4, NO_TOKEN]


def test_every_value_fits_its_type() -> None:
    """Warnings are errors here: a cast that overflows would warn."""
    for name in ("temperature", "repetition_penalty"):
        for value, expected in ((1e-300, 1e-30), (1e300, 1e30), (0.7, 0.7)):
            found = settings_of(sequence_of([5], **{name: value}), ())
            assert getattr(found, name) == np.float32(expected)
    assert settings_of(sequence_of([5], temperature=0.0), ()).temperature == 0
    for top_k, held in ((-1, 0), (2**70, 2**31 - 1)):
        assert settings_of(sequence_of([5], top_k=top_k), ()).top_k == held
    halves = set()
    for seed in (0, 1, -1, MAX_SEED, -MAX_SEED, MAX_SEED + 127):  # n sequences go beyond the last
        sequence = sequence_of([5])
        sequence.seed = seed
        halves.add(tuple(settings_of(sequence, ()).seed.tolist()))
    assert len(halves) == 6


def test_what_a_row_can_not_hold_is_refused() -> None:
    settings_of(sequence_of([5], stop_token_ids=range(3, MAX_STOP_IDS + 2)), (2,))
    too_many = sequence_of([5], stop_token_ids=range(3, MAX_STOP_IDS + 3))
    with pytest.raises(ValueError, match=r"stop_token_ids holds 65 ids .* at most 64"):
        settings_of(too_many, (2,))
    words = tuple((i,) for i in range(MAX_BAD_WORDS + 1))
    settings_of(sequence_of([5], words=words[1:]), ())
    with pytest.raises(ValueError, match="bad_words gives 129 token sequences, and at most 128"):
        settings_of(sequence_of([5], words=words), ())
    word = tuple(range(MAX_BAD_WORD_TOKENS + 1))
    settings_of(sequence_of([5], words=(word[1:],)), ())
    with pytest.raises(ValueError, match="one of bad_words has 17 tokens, and at most 16"):
        settings_of(sequence_of([5], words=(word,)), ())


def test_bias_of_a_sequence() -> None:
    assert not settings_of(sequence_of([5]), ()).has_bias
    biased = sequence_of([5], logit_bias={3: 2.5, 4: -100})
    assert settings_of(biased, ()).has_bias
    found = row_bias(biased.sampling, V)
    assert (found.ids[:3].tolist(), found.values[:3].tolist()) == ([3, 4, NO_TOKEN], [2.5, -100, 0])
    assert allowed(found) == list(range(V))
    both = sequence_of([5], logit_bias={3: 2.5, 4: 1}, allowed_token_ids=(3, 9, 31, 32, V - 1))
    assert settings_of(both, ()).has_bias
    assert allowed(row_bias(both.sampling, V)) == [3, 9, 31, 32, V - 1]


def allowed(bias: RowBias) -> list[int]:
    return np.flatnonzero(allows(jnp.asarray(bias.allowed)[None], V)).tolist()


def test_rows_of_a_large_vocabulary_are_small() -> None:
    rows = jax.eval_shape(lambda: empty_rows(256, 1, 262_144))
    sizes = [field.size * field.dtype.itemsize for field in jax.tree.leaves(rows)]
    assert sum(sizes) < 16e6  # a float for each token and row would be 268 MB


def test_loading_changes_one_row_only() -> None:
    rows = empty_rows(4, 8, V)
    sequence = sequence_of([5, 6, 7], 3, ((1, 2),), seed=9, logit_bias={3: 1}, stop_token_ids=(4,))
    new = settings_of(sequence, ())
    known = np.array([5, 6, 7, 0, 0, 0, 0, 0], np.int32)
    settings, tokens = jax.jit(load_row)(rows.settings, rows.tokens, np.int32(2), new, known)
    bias = load_bias(rows.bias, np.int32(2), row_bias(sequence.sampling, V))
    for name, before, after in zip(new._fields, rows.settings, settings, strict=True):
        np.testing.assert_array_equal(after[2], getattr(new, name))
        np.testing.assert_array_equal(np.delete(after, 2, 0), np.delete(before, 2, 0))
    assert np.asarray(tokens).tolist() == [[0] * 8, [0] * 8, known.tolist(), [0] * 8]
    assert bias.ids[2, :2].tolist() == [3, NO_TOKEN]
    assert np.argwhere(bias.values).tolist() == [[2, 0]]
    assert np.unique(np.argwhere(bias.allowed)[:, 0]).tolist() == [2]
