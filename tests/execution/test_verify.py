"""Draft tokens on the device, against the same by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.engine.speculative.drafter import check_proposal
from flaxen.execution.results import verified
from flaxen.execution.sampling import OK
from flaxen.execution.step_input import StepInput, StepLayout
from flaxen.execution.verify import sampled_positions, write_drafts
from flaxen.scheduling.executor import RowFailure
from flaxen.scheduling.plan import Scheduled
from tests.engine.fakes import sequence_of

K = 3
LAYOUT = StepLayout(num_rows=4, pages_per_seq=(4,), num_spec_tokens=K, max_sampled=8)


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
    where = sampled_positions(step, *step.paged_batches(), 8)
    assert where.is_active.tolist() == [True] * 6 + [False] * 2
    assert where.token[:6].tolist() == [0, 1, 2, 3, 4, 5]
    assert where.row[:6].tolist() == [0, 0, 0, 1, 2, 2]
    assert where.position[:6].tolist() == [5, 6, 7, 5, 5, 6]


@given(data=st.data(), drafts=st.lists(st.integers(0, 2), max_size=K))
def test_kept_are_the_right_drafts_and_one_more(data: st.DataObject, drafts: list[int]) -> None:
    size = len(drafts) + 1
    sampled = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    status = data.draw(st.lists(st.sampled_from([OK, OK, 1, 2]), min_size=size, max_size=size))
    num_right = next((i for i, d in enumerate(drafts) if sampled[i] != d), len(drafts))
    failed = next((i for i in range(num_right + 1) if status[i] != OK), None)
    found, failure = verified(sampled, status, drafts)
    assert found == sampled[: num_right + 1 if failed is None else failed]
    assert failure == (None if failed is None else RowFailure(status[failed]))


def test_a_drafter_that_proposes_too_many_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="proposed 3 tokens, and was asked for 2"):
        check_proposal([1, 2, 3], 2, 300)


def test_a_draft_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="the token id 300, outside the vocabulary of 300 tokens"):
        check_proposal([1, 300], 2, 300)
