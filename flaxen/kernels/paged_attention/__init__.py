"""Attention over paged keys and values: one ragged row of tokens mixes prefill and decode.

Every implementation has the signature of `reference.paged_attention`.
"""

from flaxen.kernels.paged_attention.batch import PagedBatch
from flaxen.kernels.paged_attention.blocked import paged_attention

__all__ = ["PagedBatch", "paged_attention"]
