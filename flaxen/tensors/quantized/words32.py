"""Numbers of two, four or eight bits that lie in 32-bit words, the first in the lowest bits.

Deliberately does not know what the numbers mean.
"""

from __future__ import annotations

import numpy as np

BITS = (2, 4, 8)


def unpack_words(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The numbers in words [rows, words] of 32 bits: uint8 [rows, count].

    Args:
      words: int32 or uint32.
      bits: of a number: one of BITS.
      count: how many numbers a row has; its last word may have room for more.
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets[:, :count]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = octets[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    return numbers.reshape(words.shape[0], -1)[:, :count]


def num_words(bits: int, count: int) -> int:
    """The 32-bit words that hold so many numbers."""
    return -(-count * bits // 32)
