"""What one layer keeps of past tokens: the kinds of cache, and the bytes that each takes.

Knows: shapes and bytes.
Deliberately does not know: JAX, pages and their owners, how attention computes.

There is no kind for an encoder's output, which cross-attention reads, because no model here has an
encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Full:
    """Keys and values of all past tokens."""

    num_kv_heads: int
    head_dim: int

    def bytes_per_token(self, itemsize: int) -> int:
        """The bytes of one token, given the bytes of one number."""
        return 2 * self.num_kv_heads * self.head_dim * itemsize


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """Keys and values of the last tokens."""

    num_kv_heads: int
    head_dim: int
    window: int  # the number of tokens that a token sees, itself included

    def bytes_per_token(self, itemsize: int) -> int:
        """The bytes of one token, given the bytes of one number."""
        return 2 * self.num_kv_heads * self.head_dim * itemsize


@dataclass(frozen=True, kw_only=True)
class Latent:
    """One compressed vector for each past token, from which all heads' keys and values are made.

    This is the cache of multi-head latent attention (MLA).
    """

    rank: int  # the rank of the compressed keys and values
    rope_dim: int  # the size of the rotated part of the keys, which all heads share

    def bytes_per_token(self, itemsize: int) -> int:
        """The bytes of one token, given the bytes of one number."""
        return (self.rank + self.rope_dim) * itemsize


@dataclass(frozen=True, kw_only=True)
class State:
    """Arrays whose size does not depend on the sequence's length: a state-space model's, a
    convolution's.
    """

    shapes: tuple[tuple[int, ...], ...]

    def bytes_per_sequence(self, itemsize: int) -> int:
        """The bytes of one sequence, given the bytes of one number."""
        return sum(math.prod(shape) for shape in self.shapes) * itemsize


CacheSpec = Full | Sliding | Latent | State


def attention_cache(num_kv_heads: int, head_dim: int, window: int | None) -> Full | Sliding:
    """The cache spec of an attention layer.

    Args:
      num_kv_heads: K.
      head_dim: H.
      window: the number of tokens seen, the current one included; None sees all.
    """
    if window is None:
        return Full(num_kv_heads=num_kv_heads, head_dim=head_dim)
    return Sliding(num_kv_heads=num_kv_heads, head_dim=head_dim, window=window)


def attention_only(specs: tuple[CacheSpec, ...]) -> tuple[Full | Sliding, ...]:
    """Returns the specs if all are `Full` or `Sliding`.

    Raises:
      ValueError: a layer needs another kind of cache, for which there is no kernel.
    """
    found = []
    for layer, spec in enumerate(specs):
        if not isinstance(spec, Full | Sliding):
            raise ValueError(
                f"layer {layer} of the model keeps {spec}, and flaxen has kernels for "
                "attention over keys and values alone (Full and Sliding): serve a model whose "
                "layers keep only these"
            )
        found.append(spec)
    return tuple(found)
