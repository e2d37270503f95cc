"""Where a step samples: after the last known token of each sequence, and after each of its drafts.

A sample depends only on its logits, its position and its sequence's seed (decision 0042). So the
host accepts a draft if it equals the token that was sampled there, which gives exactly the output
of plain decoding, greedy or not. The samples of a sequence follow each other, and those of
sequences have the order of the step, so that a step has no more of them than it has tokens
(decision 0361). Deliberately does not know: drafters, how tokens are sampled or compared.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.execution.step_input import StepInput
from flaxen.kernels.paged_batch import PagedBatch


class Samples(NamedTuple):
    """The P positions at which a step samples. What is beyond the last one is not active."""

    token: jax.Array  # [P] int32, the index in the step of the token before the sample
    row: jax.Array  # [P] int32, the sequence's row
    position: jax.Array  # [P] int32, the sampled token's position in its sequence
    is_active: jax.Array  # [P] bool, whether a token is sampled here


def write_drafts(tokens: jax.Array, step: StepInput) -> jax.Array:
    """Writes drafts after the known tokens of the rows [R, max length].

    The model, the penalties and the bad words read them there like sampled tokens. Rejected drafts
    are overwritten before anything reads them again.
    """
    num_spec_tokens = step.draft_token_ids.shape[1]
    offset = jnp.arange(num_spec_tokens)[None]
    is_draft = offset < step.num_draft_tokens[:, None]
    # An index out of range is dropped.
    row = jnp.where(is_draft, step.row[:, None], tokens.shape[0])
    position = step.num_known[:, None] + offset
    return tokens.at[row, position].set(step.draft_token_ids, mode="drop")


def sampled_positions(step: StepInput, batch: PagedBatch, num_positions: int) -> Samples:
    """Where to sample.

    Args:
      step: the step of S sequences, each of which has 1 + its drafts positions.
      batch: where the tokens of its sequences are.
      num_positions: P, static; S in a step that can have no drafts.
    """
    num_seqs, num_spec_tokens = step.draft_token_ids.shape
    num_drafts = step.num_draft_tokens
    place = jnp.arange(num_positions, dtype=jnp.int32)
    sequence, offset = place, jnp.zeros_like(place)
    if num_spec_tokens:
        ends = jnp.cumsum(1 + num_drafts)
        passed = jnp.sum(place[:, None] >= ends[None], axis=1, dtype=jnp.int32)
        sequence = jnp.minimum(passed, num_seqs - 1)
        offset = place - (ends - 1 - num_drafts)[sequence]
    index = batch.cu_q_lens[1:][sequence] - 1 - num_drafts[sequence] + offset
    return Samples(
        token=jnp.maximum(index, 0),
        row=step.row[sequence],
        position=step.num_known[sequence] + offset,
        is_active=step.samples[sequence] & (offset <= num_drafts[sequence]),
    )
