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
    head_dim: int  # of a key
    value_dim: int | None = None  # of a value; None is head_dim

    def bytes_per_token(self, itemsize: int) -> int:
        """The bytes of one token, given the bytes of one number."""
        return self.num_kv_heads * sum(head_sizes(self)) * itemsize


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """Keys and values of the last tokens."""

    num_kv_heads: int
    head_dim: int  # of a key
    window: int  # the most tokens that a token sees, itself included
    value_dim: int | None = None  # of a value; None is head_dim

    def bytes_per_token(self, itemsize: int) -> int:
        """The bytes of one token, given the bytes of one number."""
        return self.num_kv_heads * sum(head_sizes(self)) * itemsize


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
    convolution's. Always float32: they are sums over all tokens so far (decision 0310).
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_values(self) -> int:
        """The numbers of one sequence."""
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bytes_per_sequence(self) -> int:
        """The bytes of one sequence."""
        return 4 * self.num_values


CacheSpec = Full | Sliding | Latent | State


Paged = Full | Sliding | Latent  # what attention reads in pages


def num_kv_heads(spec: Paged) -> int:
    """The heads that a layer's keys have."""
    return 1 if isinstance(spec, Latent) else spec.num_kv_heads


def head_sizes(spec: Paged) -> tuple[int, int]:
    """The numbers of a key and of a value in the pages; 0 where values are part of the keys."""
    if isinstance(spec, Latent):
        return spec.rank + spec.rope_dim, 0
    return spec.head_dim, spec.head_dim if spec.value_dim is None else spec.value_dim


def numbers_per_key(spec: Paged) -> int:
    """The numbers that a query head multiplies for each key that it sees: a key and a value."""
    if isinstance(spec, Latent):
        return 2 * spec.rank + spec.rope_dim
    return sum(head_sizes(spec))


def attention_cache(
    num_kv_heads: int,
    head_dim: int,
    window: int | None,
    *,
    chunk: int | None = None,
    value_dim: int | None = None,
) -> Full | Sliding:
    """The cache spec of an attention layer.

    Args:
      num_kv_heads: K.
      head_dim: H.
      window: the number of tokens seen, the current one included; None sees all.
      chunk: a token sees those of its own chunk of so many positions: no more than a window of as
          many, whose pages are kept; None sees all.
      value_dim: the numbers of a value; None is H.
    """
    if value_dim == head_dim:
        value_dim = None
    seen = [each for each in (window, chunk) if each is not None]
    if not seen:
        return Full(num_kv_heads=num_kv_heads, head_dim=head_dim, value_dim=value_dim)
    return Sliding(
        num_kv_heads=num_kv_heads, head_dim=head_dim, window=min(seen), value_dim=value_dim
    )


def attention_only(specs: tuple[CacheSpec, ...]) -> tuple[Paged, ...]:
    """The specs of the layers with attention."""
    return tuple(spec for spec in specs if not isinstance(spec, State))
