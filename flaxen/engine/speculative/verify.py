"""Verifies draft tokens on the device: a draft is right if it is the token that is sampled there.

A sample depends on its logits, its position and its sequence's seed alone (decision 0042), so that
comparing it with the draft keeps the output of plain decoding to the bit, greedy or not.

Samples are laid out position by position, [K + 1, S]: those after the last token of all sequences
come first, and where nothing was drafted the rest is padding, which costs next to nothing.

Deliberately does not know: who proposes drafts, how tokens are sampled.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxen.engine.rows import NO_TOKEN
from flaxen.engine.step_input import StepInput
from flaxen.kernels.paged_attention import PagedBatch


class Samples(NamedTuple):
    """Where a step samples, S sequences times K + 1 positions, flat."""

    token: jax.Array  # [(K+1) * S] int32, of the token in the step after which is sampled
    row: jax.Array  # [(K+1) * S] int32, of its sequence
    position: jax.Array  # [(K+1) * S] int32, of the sampled token in its sequence
    is_active: jax.Array  # [(K+1) * S] bool, something is sampled here


def write_drafts(tokens: jax.Array, step: StepInput) -> jax.Array:
    """The rows' tokens [R, max length] with the drafts after the known ones.

    The model, the penalties and the bad words read them there, as they read what was sampled.
    Those that prove wrong are overwritten before anything reads them again.
    """
    num_spec_tokens = step.draft_token_ids.shape[1]
    offset = jnp.arange(num_spec_tokens)[None]
    is_draft = offset < step.num_draft_tokens[:, None]
    row = jnp.where(is_draft, step.row[:, None], tokens.shape[0])  # out of range: dropped
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
    """The tokens of a step, [S, K + 1]: the drafts that are right, and the one after them.

    NO_TOKEN for what comes after a draft that is wrong, or after a sample that failed.

    Args:
      sampled: [(K + 1) * S] int32, as `sampled_positions` lays them out.
      ok: [(K + 1) * S] bool, whether the sample is a token.
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
