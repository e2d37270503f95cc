"""Verifies draft tokens on the device: a draft is accepted if it equals the token sampled there.

A sample depends only on its logits, its position and its sequence's seed (decision 0042). So
accepting drafts by comparison gives exactly the output of plain decoding, greedy or not. Samples
are ordered by position, [K + 1, S]: first those after each sequence's last known token. Without
drafts the rest is padding, which costs almost nothing. Deliberately does not know: drafters, how
tokens are sampled.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.execution.rows import NO_TOKEN
from flaxen.execution.step_input import StepInput
from flaxen.kernels.paged_batch import PagedBatch


class Samples(NamedTuple):
    """Where a step samples: S sequences times K + 1 positions, flattened."""

    token: jax.Array  # [(K+1) * S] int32, the index in the step of the token before the sample
    row: jax.Array  # [(K+1) * S] int32, the sequence's row
    position: jax.Array  # [(K+1) * S] int32, the sampled token's position in its sequence
    is_active: jax.Array  # [(K+1) * S] bool, whether a token is sampled here


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


def sampled_positions(step: StepInput, batch: PagedBatch) -> Samples:
    """Where to sample: after each sequence's last known token, and after each of its drafts."""
    num_positions = 1 + step.draft_token_ids.shape[1]
    offset = jnp.arange(num_positions, dtype=jnp.int32)[:, None]
    num_drafts = step.num_draft_tokens[None]
    index = batch.cu_q_lens[None, 1:] - 1 - num_drafts + offset
    is_active = step.samples[None] & (offset <= num_drafts)
    return Samples(
        token=jnp.maximum(index, 0).reshape(-1),
        row=jnp.broadcast_to(step.row[None], is_active.shape).reshape(-1),
        position=(step.num_known[None] + offset).reshape(-1),
        is_active=is_active.reshape(-1),
    )


def keep_verified(sampled: jax.Array, ok: jax.Array, step: StepInput) -> jax.Array:
    """The tokens of a step, [S, K + 1]: the accepted drafts, and the token after them.

    Entries after a rejected draft or a failed sample are NO_TOKEN.

    Args:
      sampled: [(K + 1) * S] int32, in the order of `sampled_positions`.
      ok: [(K + 1) * S] bool, whether the sample is valid.
      step: the step.
    """
    num_seqs, num_spec_tokens = step.draft_token_ids.shape
    sampled = sampled.reshape(num_spec_tokens + 1, num_seqs).T
    ok = ok.reshape(num_spec_tokens + 1, num_seqs).T
    is_draft = jnp.arange(num_spec_tokens)[None] < step.num_draft_tokens[:, None]
    is_right = is_draft & ok[:, :-1] & (sampled[:, :-1] == step.draft_token_ids)
    is_kept = jnp.cumprod(is_right, axis=1, dtype=jnp.int32) > 0
    first = jnp.ones((num_seqs, 1), bool)
    return jnp.where(jnp.concatenate([first, is_kept], axis=1), sampled, NO_TOKEN)
