"""Attention over packed segments in which each token sees those before and after it: encoders."""

from __future__ import annotations

from jaxtyping import Array, Float, Int

from flaxen.attention_kernels.bidirectional_attention import cpu, reference
from flaxen.kernels.backend import Backend, find_implementation, implementations

IMPLEMENTATIONS = implementations(
    reference.bidirectional_attention, {Backend.CPU: cpu.bidirectional_attention}
)


def bidirectional_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    window: int | None = None,
    scale: float | None = None,
    backend: Backend,
) -> Float[Array, "B T N H"]:
    """Each token attends to all tokens of its own segment.

    Args:
      q: [B, T, N, H].
      k: [B, T, K, H]; N is a multiple of K.
      v: [B, T, K, H].
      segment_ids: [B, T] integers, equal within a segment, whose tokens are consecutive, and
          different in the next; 0 is padding, whose output is zeros. None means that each row is
          one segment.
      window: how many tokens a token sees to either side of itself; None sees all.
      scale: multiplies the scores q . k; None is H ** -0.5.
      backend: what computes.

    Returns:
      [B, T, N, H] in q's dtype; scores and softmax are float32.

    Raises:
      ValueError: the heads do not match, or the window is invalid.
    """
    B, T, N, H = q.shape
    if k.shape != v.shape or k.shape[:2] != (B, T) or k.shape[3] != H or N % k.shape[2]:
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape} and v {v.shape}: they are [B, T, N, H] and "
            "twice [B, T, K, H], with N a multiple of K"
        )
    if window is not None and window < 1:
        raise ValueError(f"the window must be at least 1, got {window}: None sees all tokens")
    run = find_implementation("bidirectional_attention", IMPLEMENTATIONS, backend)
    return run(q, k, v, segment_ids, window, float(H**-0.5 if scale is None else scale))
