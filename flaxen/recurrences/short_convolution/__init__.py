"""A causal convolution of each channel over the last few tokens of its sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments, check_states
from flaxen.recurrences.short_convolution import cpu, reference

IMPLEMENTATIONS: Mapping[Backend, Callable[..., tuple[jax.Array, jax.Array | None]]] = (
    implementations(reference.short_convolution, {Backend.CPU: cpu.short_convolution})
)


def state_shape(num_taps: int, num_channels: int) -> tuple[int, ...]:
    """The shape of a sequence's state: the inputs of its last tokens, all but the current one's."""
    return num_taps - 1, num_channels


def short_convolution(
    x: Float[Array, "*T C"],
    weight: Float[Array, "K C"],
    bias: Float[Array, C] | None,
    states: Any,
    batch: PagedBatch | Segments,
    *,
    has_silu: bool = False,
    backend: Backend,
) -> tuple[Float[Array, "*T C"], Any]:
    """out[t] = bias + sum over j of weight[j] * x[t - K + 1 + j], with zeros before a sequence.

    Args:
      x: [T, C] for a served step, [B, T, C] for training.
      weight: [K, C], the current token's last.
      bias: [C], or None.
      states: [slots, K - 1, C] float32, or None for `Segments`.
      batch: the sequences of the tokens.
      has_silu: the output is silu(out).
      backend: what computes.

    Returns:
      The output in x's dtype, summed in float32, zeros for padding; and the new states.

    Raises:
      ValueError: the shapes do not match, or the states are not those of the batch.
    """
    num_taps, num_channels = weight.shape
    if num_taps < 2 or x.shape[-1] != num_channels:
        raise ValueError(
            f"a short convolution of x {x.shape} needs a weight [K, {x.shape[-1]}] with K at least "
            f"2, got {weight.shape}"
        )
    check_states(states, state_shape(num_taps, num_channels), batch)
    run = find_implementation("short_convolution", IMPLEMENTATIONS, backend)
    return run(x, weight, bias, states, batch, has_silu)
