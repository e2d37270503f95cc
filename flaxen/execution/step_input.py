"""The host's input of one step: named columns of one array, for a single transfer.

Both sides use the same StepLayout: `pack` writes the array on the host, `unpack` returns its
columns on the device. Nothing else knows where a column is.

Deliberately does not know: how steps are planned, models, sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.paged_batch import PagedBatch
from flaxen.scheduling.plan import Scheduled
from flaxen.scheduling.sequence import NO_SLOT

# The fields of StepInput with one number for each sequence, in the packed order.
_COLUMNS = ("row", "start", "num_tokens", "samples", "adapter_slot", "num_draft_tokens")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class StepInput:
    """One step of S sequences, on the device. Sequences beyond those of the step are inactive.

    An inactive sequence has no tokens, and its row is R, which is out of range.
    """

    row: jax.Array  # [S] int32, the row in the device's state
    start: jax.Array  # [S] int32, the position of the first token to compute
    num_tokens: jax.Array  # [S] int32, the tokens to compute, including draft tokens
    # [S] bool, whether a token is sampled after the last known token and after each draft.
    samples: jax.Array
    adapter_slot: jax.Array  # [S] int32, NO_SLOT for none
    num_draft_tokens: jax.Array  # [S] int32, at most K
    draft_token_ids: jax.Array  # [S, K] int32; entries beyond num_draft_tokens are not read
    page_tables: tuple[jax.Array, ...]  # one for each cache group, [S, P] int32 page ids

    @property
    def num_known(self) -> jax.Array:
        """The number of known tokens of each sequence after the step, without drafts: [S] int32."""
        return self.start + self.num_tokens - self.num_draft_tokens

    def paged_batches(self) -> tuple[PagedBatch, ...]:
        """The PagedBatch of attention for each cache group; one without pages if there is none."""
        cu_q_lens = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(self.num_tokens)])
        kv_lens = jnp.where(self.num_tokens > 0, self.start + self.num_tokens, 0)
        tables = self.page_tables or (jnp.zeros((kv_lens.shape[0], 0), jnp.int32),)
        return tuple(PagedBatch(kv_lens, table, cu_q_lens) for table in tables)


@dataclass(frozen=True, kw_only=True)
class StepLayout:
    """The columns of a step's array [S, columns] int32. Hashable: it selects compiled code."""

    num_rows: int  # R
    pages_per_seq: tuple[int, ...]  # P of each cache group
    num_spec_tokens: int = 0  # K
    max_sampled: int = 0  # the most positions at which a step samples, if it may have drafts

    def num_positions(self, num_seqs: int, num_tokens: int) -> int:
        """P, the positions at which a step of S sequences and T tokens samples."""
        return min(num_tokens, self.max_sampled) if self.num_spec_tokens else num_seqs

    def pack(self, items: Sequence[Scheduled], num_seqs: int) -> np.ndarray:
        """Makes a step's array on the host.

        Args:
          items: the sequences' parts of the step; an empty list makes a step that computes nothing.
          num_seqs: S, at least the number of items.
        """
        drafts, *page_tables = tables = self._tables()
        packed = np.zeros((num_seqs, tables[-1].stop), np.int32)
        self._write(packed, {"row": self.num_rows, "adapter_slot": NO_SLOT})
        numbers: dict[str, int | list[int]] = {
            "row": [item.row for item in items],
            "start": [item.start for item in items],
            "num_tokens": [item.num_tokens for item in items],
            "samples": [item.samples for item in items],
            "adapter_slot": [item.sequence.adapter_slot for item in items],
            "num_draft_tokens": [item.num_drafts for item in items],
        }
        self._write(packed[: len(items)], numbers)
        for line, item in zip(packed, items, strict=False):
            drafted = item.sequence.draft_token_ids[: item.num_drafts]
            numbers_of = (drafted, *item.sequence.pages)
            for columns, ids in zip((drafts, *page_tables), numbers_of, strict=True):
                line[columns][: len(ids)] = ids
        return packed

    def unpack(self, packed: jax.Array) -> StepInput:
        """Returns the columns on the device."""
        numbers: dict[str, Any] = {name: packed[:, i] for i, name in enumerate(_COLUMNS)}
        numbers["samples"] = numbers["samples"] > 0
        drafts, *page_tables = (packed[:, columns] for columns in self._tables())
        return StepInput(draft_token_ids=drafts, page_tables=tuple(page_tables), **numbers)

    def _write(self, packed: np.ndarray, numbers: Mapping[str, int | list[int]]) -> None:
        for name, values in numbers.items():
            packed[:, _COLUMNS.index(name)] = values

    def _tables(self) -> list[slice]:
        """The columns of the draft tokens, and of each cache group's page table."""
        widths = (self.num_spec_tokens, *self.pages_per_seq)
        ends = list(accumulate(widths, initial=len(_COLUMNS)))
        return list(map(slice, ends, ends[1:]))
