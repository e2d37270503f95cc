"""Causal attention over packed segments: whole sequences, without a cache.

On the CPU backend its results equal those of paged attention to the bit: training = serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
from jaxtyping import Array, Float, Float32, Int

from flaxen.attention_kernels.causal_attention import cpu, gpu, reference, some_queries, tpu
from flaxen.attention_kernels.mask import check_scores
from flaxen.kernels.backend import Backend, find_implementation

IMPLEMENTATIONS: Mapping[Backend, Callable[..., jax.Array]] = {
    Backend.REFERENCE: reference.causal_attention,
    Backend.CPU: cpu.causal_attention,
    Backend.GPU: gpu.causal_attention,
    Backend.GPU_INVARIANT: gpu.causal_attention,
    Backend.TPU: tpu.causal_attention,
    Backend.TPU_TOKAMAX: tpu.causal_attention,
}
# For some of a row's queries: the backends whose devices make a mesh.
OF_SOME_QUERIES: Mapping[Backend, Callable[..., jax.Array]] = {
    Backend.REFERENCE: some_queries.causal_attention,
    Backend.GPU: some_queries.causal_attention,
    Backend.GPU_INVARIANT: some_queries.causal_attention,
    Backend.TPU: some_queries.causal_attention,
    Backend.TPU_TOKAMAX: some_queries.causal_attention,
}


def causal_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K V"] | None,
    *,
    segment_ids: Int[Array, "B S"] | None = None,
    first_query: Int[Array, ""] | None = None,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    value_dim: int | None = None,
    backend: Backend,
) -> Float[Array, "B T N V"]:
    """Each token attends to itself and to earlier tokens of its own segment.

    Args:
      q: [B, T, N, H].
      k: [B, S, K, H]; N is a multiple of K.
      v: [B, S, K, V]; None if a value is the first `value_dim` numbers of its key.
      segment_ids: [B, S] integers, equal within a segment and different in the next; 0 is padding,
          whose output is zeros. None means that each row is one segment.
      first_query: the place in the row of the first of T consecutive queries; None has the queries
          of the whole row, T = S.
      window: the number of tokens seen, the current one included; None sees all.
      chunk: a token sees the tokens of its own chunk of so many positions; None sees all.
      scale: multiplies the scores q . k; None is H ** -0.5.
      softcap: scores become softcap * tanh(scores / softcap); above 0; None for no cap.
      sinks: [N] for each query head a score that takes part in the softmax without a value.
      value_dim: V where v is None; else it is not used.
      backend: what computes.

    Returns:
      [B, T, N, V] in q's dtype; scores and softmax are float32.

    Raises:
      ValueError: the heads do not match, or an option is invalid.
    """
    B, T, N, H = q.shape
    length = T if first_query is None else k.shape[1]
    v = k[..., :value_dim] if v is None else v
    if (
        k.shape[:3] != v.shape[:3]
        or k.shape[:2] != (B, length)
        or k.shape[3] != H
        or N % k.shape[2]
    ):
        raise ValueError(
            f"q {q.shape} does not go with k {k.shape} and v {v.shape}: they are [B, T, N, H], "
            "[B, S, K, H] and [B, S, K, V], with N a multiple of K, and S = T unless first_query "
            "is given"
        )
    if sinks is not None and sinks.shape != (N,):
        raise ValueError(f"there is a sink for each of the {N} query heads, got {sinks.shape}")
    check_scores(window, chunk, softcap)
    options = reference.Options(window, float(H**-0.5 if scale is None else scale), softcap, chunk)
    operands = reference.Operands(q, k, v, sinks, segment_ids)
    if first_query is not None:
        some = find_implementation("causal_attention of some queries", OF_SOME_QUERIES, backend)
        return some(operands, first_query, options)
    run = find_implementation("causal_attention", IMPLEMENTATIONS, backend)
    return run(operands, options)
