"""Causal attention over packed segments: whole sequences, nothing cached.

With the C++ kernels its bits are those of paged attention: what is trained is what is served.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float, Int

from flaxen.kernels.causal_attention import cpu, reference


def causal_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Float[Array, "B T N H"]:
    """Each token attends to itself and to those before it in its own segment.

    Args:
      q: [B, T, N, H].
      k: [B, T, K, H]; N is a multiple of K.
      v: [B, T, K, H].
      segment_ids: [B, T] integers, one value along a segment and another in the next; 0 is padding,
        and gets zeros. None is one segment a row.
      window: the number of tokens seen, the current one included; None sees all.
      scale: of the scores; None is H ** -0.5.
      softcap: scores become softcap * tanh(scores / softcap); above 0; None leaves them.

    Returns:
      [B, T, N, H] in q's dtype; scores and softmax are float32.

    Raises:
      ValueError: heads that do not match, or a bad window or softcap.
    """
    B, T, N, H = q.shape
    if k.shape != v.shape or k.shape[:2] != (B, T) or k.shape[3] != H or N % k.shape[2]:
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape} and v {v.shape}: they are [B, T, N, H] and "
            "twice [B, T, K, H], with N a multiple of K"
        )
    if window is not None and window < 1:
        raise ValueError(f"the window must be at least 1, got {window}: None sees all tokens")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"the softcap must be above 0, got {softcap}: None leaves the scores")
    options = reference.Options(window, float(H**-0.5 if scale is None else scale), softcap)
    if cpu.runs(q, k, v):
        ids = None if segment_ids is None else jax.lax.stop_gradient(segment_ids)
        return cpu.causal_attention(q, k, v, ids, options)
    return reference.causal_attention(q, k, v, segment_ids, options)
