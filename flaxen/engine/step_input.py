"""What the host tells the device of one step: named columns of one array, for a single transfer.

Both sides go by the same StepLayout: `pack` writes the array on the host, `unpack` names its
columns on the device. Nothing else knows where a column is.

Deliberately does not know: how steps are planned, models, sampling.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine.plan import Scheduled
from flaxen.engine.sequence import NO_SLOT
from flaxen.kernels.paged_attention import PagedBatch

# The fields of StepInput that are one number a sequence, in the order in which they are packed.
_COLUMNS = ("row", "start", "num_tokens", "samples", "adapter_slot")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class StepInput:
    """One step of S sequences, on the device. Those past the step's own are inactive.

    An inactive sequence has no tokens, and its row is R, which is outside of the rows.
    """

    row: jax.Array  # [S] int32, in the device's per-sequence state
    start: jax.Array  # [S] int32, position of the first token to compute
    num_tokens: jax.Array  # [S] int32, tokens to compute
    samples: jax.Array  # [S] bool, a token is sampled after the last one
    adapter_slot: jax.Array  # [S] int32, NO_SLOT for none
    page_tables: tuple[jax.Array, ...]  # of each cache group, [S, P] int32 page ids

    def paged_batches(self) -> tuple[PagedBatch, ...]:
        """What attention needs to know, for each cache group."""
        cu_q_lens = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(self.num_tokens)])
        kv_lens = jnp.where(self.num_tokens > 0, self.start + self.num_tokens, 0)
        return tuple(PagedBatch(kv_lens, table, cu_q_lens) for table in self.page_tables)


@dataclass(frozen=True, kw_only=True)
class StepLayout:
    """Which columns of a step's array [S, columns] int32 hold what. Hashable: it selects code."""

    num_rows: int  # R
    pages_per_seq: tuple[int, ...]  # P of each cache group

    def pack(self, items: Items[Scheduled], num_seqs: int) -> np.ndarray:
        """A step's array, on the host.

        Args:
          items: the sequences' parts of the step; none makes a step that computes nothing.
          num_seqs: S, at least as many.
        """
        packed = np.zeros((num_seqs, len(_COLUMNS) + sum(self.pages_per_seq)), np.int32)
        numbers: dict[str, int | list[int]] = {"row": self.num_rows, "adapter_slot": NO_SLOT}
        self._write(packed, numbers)
        numbers = {
            "row": [item.row for item in items],
            "start": [item.start for item in items],
            "num_tokens": [item.num_tokens for item in items],
            "samples": [item.samples for item in items],
            "adapter_slot": [item.sequence.adapter_slot for item in items],
        }
        self._write(packed[: len(items)], numbers)
        tables = self._page_tables()
        for line, item in zip(packed, items, strict=False):
            for columns, pages in zip(tables, item.sequence.pages, strict=True):
                line[columns][: len(pages)] = pages
        return packed

    def unpack(self, packed: jax.Array) -> StepInput:
        """The columns of `pack`, on the device."""
        numbers: dict[str, Any] = {name: packed[:, i] for i, name in enumerate(_COLUMNS)}
        numbers["samples"] = numbers["samples"] > 0
        tables = tuple(packed[:, columns] for columns in self._page_tables())
        return StepInput(page_tables=tables, **numbers)

    def _write(self, packed: np.ndarray, numbers: dict[str, int | list[int]]) -> None:
        for name, values in numbers.items():
            packed[:, _COLUMNS.index(name)] = values

    def _page_tables(self) -> list[slice]:
        """The columns of each cache group's page table."""
        ends = list(accumulate(self.pages_per_seq, initial=len(_COLUMNS)))
        return list(map(slice, ends, ends[1:]))
