"""A step's array: what the host packs is what the device unpacks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.execution.step_input import StepLayout
from flaxen.scheduling.plan import Scheduled
from flaxen.scheduling.sequence import NO_SLOT
from tests.engine.fakes import sequence_of

LAYOUT = StepLayout(num_rows=8, pages_per_seq=(5, 2))


def scheduled(row: int, start: int, num_tokens: int, pages: list[list[int]]) -> Scheduled:
    sequence = sequence_of([1] * (start + num_tokens))
    sequence.pages = pages
    return Scheduled(sequence, row, start, num_tokens, samples=row % 2 == 0, load_row=False)


def test_unpacked_is_packed() -> None:
    items = [scheduled(2, 4, 3, [[7, 8, 9], [1]]), scheduled(5, 0, 6, [[3], []])]
    items[1].sequence.adapter_slot = 1
    step = LAYOUT.unpack(jnp.asarray(LAYOUT.pack(items, 4)))
    assert step.row.tolist() == [2, 5, 8, 8]  # 8: inactive
    assert step.start.tolist() == [4, 0, 0, 0]
    assert step.num_tokens.tolist() == [3, 6, 0, 0]
    assert step.samples.tolist() == [True, False, False, False]
    assert step.adapter_slot.tolist() == [NO_SLOT, 1, NO_SLOT, NO_SLOT]
    full, sliding = step.page_tables
    assert full[:2].tolist() == [[7, 8, 9, 0, 0], [3, 0, 0, 0, 0]]
    assert sliding[:2].tolist() == [[1, 0], [0, 0]]


def test_each_cache_group_has_a_batch_of_its_own_pages() -> None:
    items = [scheduled(2, 4, 3, [[7, 8, 9], [1]])]
    step = LAYOUT.unpack(jnp.asarray(LAYOUT.pack(items, 2)))
    full, sliding = step.paged_batches()
    for batch, pages_per_seq in ((full, 5), (sliding, 2)):
        assert batch.kv_lens.tolist() == [7, 0]
        assert batch.cu_q_lens.tolist() == [0, 3, 3]
        assert batch.page_table.shape == (2, pages_per_seq)


def test_a_step_without_sequences_has_inactive_ones_alone() -> None:
    packed = LAYOUT.pack([], 3)
    assert packed.dtype == np.int32
    step = LAYOUT.unpack(jnp.asarray(packed))
    assert step.row.tolist() == [8, 8, 8]
    assert not step.num_tokens.any()
    assert not step.samples.any()


def test_more_pages_than_the_table_holds_are_a_bug() -> None:
    with pytest.raises(ValueError, match="could not broadcast"):
        LAYOUT.pack([scheduled(2, 4, 3, [[1, 2, 3, 4, 5, 6], [1]])], 1)
