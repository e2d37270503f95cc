"""Draft tokens on the device, against the same by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.engine.speculative.drafter import propose
from flaxen.execution.rows import NO_TOKEN
from flaxen.execution.step_input import StepInput, StepLayout
from flaxen.execution.verify import keep_verified, sampled_positions, write_drafts
from flaxen.scheduling.plan import Scheduled
from tests.engine.fakes import sequence_of

K = 3
LAYOUT = StepLayout(num_rows=4, pages_per_seq=(4,), num_spec_tokens=K)


def step_of(*drafts: tuple[int, ...]) -> StepInput:
    """A step of sequences in the rows 0, 1, ... that know 5 tokens each, and have these drafts."""
    items = []
    for row, draft in enumerate(drafts):
        sequence = sequence_of([10, 11, 12, 13, 14])
        sequence.pages = [[row]]
        sequence.draft_token_ids = draft
        items.append(Scheduled(sequence, row, 4, 1 + len(draft), True, False, 0, len(draft)))
    return LAYOUT.unpack(jnp.asarray(LAYOUT.pack(items, 4)))


def test_drafts_are_written_after_the_known_tokens() -> None:
    tokens = write_drafts(jnp.full((4, 9), 1, jnp.int32), step_of((7, 8), (), (9,)))
    expected = np.ones((4, 9))
    expected[0, 5:7], expected[2, 5] = (7, 8), 9
    np.testing.assert_array_equal(tokens, expected)


def test_samples_follow_the_last_known_token_and_each_draft() -> None:
    step = step_of((7, 8), (), (9,))  # the tokens 0 to 2, 3, and 4 to 5 of the step
    where = sampled_positions(step, *step.paged_batches())
    by_position = where.token.reshape(K + 1, 4), where.position.reshape(K + 1, 4)
    is_active = np.array(where.is_active.reshape(K + 1, 4))
    assert is_active.T.tolist() == [
        [True, True, True, False],
        [True, False, False, False],
        [True, True, False, False],
        [False] * 4,
    ]
    for values, expected in zip(by_position, ([0, 1, 2, 3, 4, 5], [5, 6, 7, 5, 5, 6]), strict=True):
        assert np.array(values).T[is_active.T].tolist() == expected


@settings(deadline=None)
@given(
    drafts=st.lists(st.lists(st.integers(0, 2), max_size=K), min_size=1, max_size=4),
    data=st.data(),
)
def test_kept_are_the_right_drafts_and_one_more(
    drafts: list[list[int]], data: st.DataObject
) -> None:
    sampled = data.draw(
        st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=4, max_size=4)
    )
    ok = data.draw(
        st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=4, max_size=4)
    )
    kept = keep_verified(
        jnp.asarray(sampled).T.reshape(-1),
        jnp.asarray(ok).T.reshape(-1),
        step_of(*map(tuple, drafts)),
    )
    for line, draft in enumerate(drafts):
        expected: list[int] = []
        for position in range(len(draft) + 1):
            expected.append(sampled[line][position])
            is_right = position < len(draft) and draft[position] == sampled[line][position]
            if not (is_right and ok[line][position]):
                break
        expected += [NO_TOKEN] * (K + 1 - len(expected))
        assert kept[line].tolist() == expected


class Fixed:
    def __init__(self, *token_ids: int) -> None:
        self._token_ids = token_ids

    def propose(self, token_ids: object, num_spec_tokens: int) -> tuple[int, ...]:
        return self._token_ids


def test_a_drafter_that_proposes_too_many_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="proposed 3 tokens, but num_spec_tokens is 2"):
        propose(Fixed(1, 2, 3), [1], 2, 300)


def test_a_draft_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="the token id 300, outside the vocabulary of 300 tokens"):
        propose(Fixed(1, 300), [1], 2, 300)
