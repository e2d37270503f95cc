"""Going through sequences token by token, with a state that each sequence keeps.

An op gives the update of the state by one token; this gives its two forms: over the slots of a
served step, and over the segments of a training batch. A sequence's tokens are computed one after
the other in both, because a form that computes several at once has other sums: its bits would
depend on how a prompt is divided into steps (decision 0310).

Deliberately does not know any op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels import cpu_library
from flaxen.kernels.paged_batch import PagedBatch

# State, one token's inputs and the op's parameters -> the new state and the token's output.
Update = Callable[[jax.Array, Any, Any], tuple[jax.Array, jax.Array]]

# Tokens between the states that a gradient keeps; it computes those between them again.
_BLOCK = 64


class Segments(NamedTuple):
    """A training batch: rows of tokens [B, T], with several sequences one after the other."""

    # [B, T], equal along a sequence and different in the next, 0 for padding; None: each row is one
    # sequence.
    ids: jax.Array | None


def over_slots(
    update: Update, tokens: Any, params: Any, states: jax.Array, batch: PagedBatch
) -> tuple[jax.Array, jax.Array]:
    """Runs over one ragged row of T tokens, whose sequences have their states in slots.

    Args:
      update: the op.
      tokens: a tree of arrays [T, ...].
      params: a tree of arrays, the same for all tokens.
      states: [slots, ...] float32.
      batch: the sequences of the tokens; the first column of its page table has their slots.

    Returns:
      The outputs [T, ...], zeros for padding, and the new states. A sequence whose first token is
      at position 0 starts from zeros, whatever its slot has.
    """
    num_tokens = jax.tree.leaves(tokens)[0].shape[0]
    positions = batch.token_positions(num_tokens)
    slots = batch.page_table[batch.token_sequences(num_tokens), 0]

    def one(states: jax.Array, xs: Any) -> tuple[jax.Array, jax.Array]:
        token, position, slot = xs
        kept = jax.lax.dynamic_index_in_dim(states, slot, keepdims=False)
        state, out = update(jnp.where(position == 0, 0, kept), token, params)
        is_token = position >= 0
        new = jnp.where(is_token, state, kept)
        states = jax.lax.dynamic_update_index_in_dim(states, new, slot, 0)
        return states, jnp.where(is_token, out, jnp.zeros_like(out))

    slots = jnp.clip(slots, 0, states.shape[0] - 1)
    states, outs = jax.lax.scan(one, states, (tokens, positions, slots))
    return outs, states


def over_segments(
    update: Update, tokens: Any, params: Any, state_shape: tuple[int, ...], segments: Segments
) -> jax.Array:
    """Runs over rows of tokens, each segment from a state of zeros.

    A gradient keeps the states of every `_BLOCK`-th token, and those of one block.

    Args:
      update: the op.
      tokens: a tree of arrays [B, T, ...].
      params: a tree of arrays, the same for all tokens.
      state_shape: of one sequence.
      segments: the sequences in the rows.

    Returns:
      The outputs [B, T, ...], zeros for padding.
    """
    num_rows, length = jax.tree.leaves(tokens)[0].shape[:2]
    ids = segments.ids
    if ids is None:
        ids = jnp.ones((num_rows, length), jnp.int32)
    before = jnp.concatenate([jnp.zeros_like(ids[:, :1]), ids[:, :-1]], axis=1)
    xs = jax.tree.map(lambda each: each.swapaxes(0, 1), (tokens, ids != before, ids != 0))
    num_blocks = -(-length // _BLOCK)

    def one(state: jax.Array, xs: Any) -> tuple[jax.Array, jax.Array]:
        token, is_first, is_token = xs
        state = jnp.where(_beside(is_first, state), 0, state)
        new, out = jax.vmap(update, in_axes=(0, 0, None))(state, token, params)
        out = jnp.where(_beside(is_token, out), out, jnp.zeros_like(out))
        return jnp.where(_beside(is_token, new), new, state), out

    def block(state: jax.Array, xs: Any) -> tuple[jax.Array, jax.Array]:
        return jax.lax.scan(one, state, xs)

    start = jnp.zeros((num_rows, *state_shape), jnp.float32)
    if num_blocks <= 1:
        return block(start, xs)[1].swapaxes(0, 1)
    blocks = jax.tree.map(lambda each: _in_blocks(each, num_blocks), xs)
    outs: jax.Array = jax.lax.scan(jax.checkpoint(block), start, blocks)[1]
    return outs.reshape(-1, *outs.shape[2:])[:length].swapaxes(0, 1)


def _in_blocks(x: jax.Array, num_blocks: int) -> jax.Array:
    """Tokens [T, ...] as [blocks, block, ...], with padding."""
    missing = num_blocks * _BLOCK - x.shape[0]
    x = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(num_blocks, _BLOCK, *x.shape[1:])


def _beside(mask: jax.Array, x: jax.Array) -> jax.Array:
    """A mask [B] with as many axes as x [B, ...]."""
    return mask.reshape(-1, *(1,) * (x.ndim - 1))


def over_sequences(
    update: Update,
    tokens: Any,
    params: Any,
    state_shape: tuple[int, ...],
    states: jax.Array | None,
    batch: PagedBatch | Segments,
) -> tuple[jax.Array, jax.Array | None]:
    """Runs in the form that the batch asks for; `states` is None for `Segments`."""
    if isinstance(batch, Segments):
        return over_segments(update, tokens, params, state_shape, batch), None
    assert states is not None
    return over_slots(update, tokens, params, states, batch)


def native(
    name: str,
    arrays: tuple[jax.Array, ...],
    out: jax.ShapeDtypeStruct,
    states: jax.Array | None,
    batch: PagedBatch | Segments,
    **attributes: Any,
) -> tuple[jax.Array, jax.Array | None]:
    """Calls the C++ kernel of an op; it updates the states in place if they are donated.

    Args:
      name: the kernel.
      arrays: its operands before the states.
      out: the shape of its output.
      states: [slots, ...] float32, or None for `Segments`.
      batch: the sequences.
      **attributes: of the kernel.
    """
    if states is None:
        assert isinstance(batch, Segments)
        ids = () if batch.ids is None else (batch.ids.astype(jnp.int32),)
        call = cpu_library.kernel(name, [out])
        (found,) = call(*arrays, *ids, is_paged=np.bool_(False), **attributes)
        return found, None
    kept = jax.ShapeDtypeStruct(states.shape, states.dtype)
    call = cpu_library.kernel(name, [out, kept], input_output_aliases={len(arrays): 1})
    found, states = call(*arrays, states, *batch, is_paged=np.bool_(True), **attributes)
    return found, states


def check_states(
    states: jax.Array | None, shape: tuple[int, ...], batch: PagedBatch | Segments
) -> None:
    """Refuses states that are not those of a batch.

    Args:
      states: the op's.
      shape: of one sequence's state.
      batch: the op's.

    Raises:
      ValueError: a served step has no states, or training has some; or their shape or dtype differ.
    """
    if isinstance(batch, Segments):
        if states is not None:
            raise ValueError(
                "segments begin from zeros and keep nothing: their states must be None"
            )
        return
    if states is None or states.shape[1:] != shape or states.dtype != jnp.float32:
        found = None if states is None else f"{states.dtype}{list(states.shape)}"
        expected = f"float32[slots, {', '.join(map(str, shape))}]"
        raise ValueError(f"the states of a served step must be {expected}, got {found}")
