"""Paged attention on a GPU, by the Pallas kernels of `gpu_kernels`.

There are two variants (decision 0268). The fast one takes the tile that suits the step's shape. The
invariant one takes one tile and one split for every step, so that a token's bits depend on its own
sequence alone. Deliberately does not know the arithmetic.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.paged_attention import blocked, gpu_kernels
from flaxen.attention_kernels.paged_attention.gpu_schedule import (
    BLOCKS,
    STAGE_BYTES,
    Schedule,
    divide,
    next_power_of_two,
    schedule,
)
from flaxen.attention_kernels.paged_attention.gpu_state import Sizes
from flaxen.attention_kernels.paged_attention.gpu_write import write_pages
from flaxen.attention_kernels.paged_attention.pages import KvPages
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.paged_batch import PagedBatch

PAGE_DTYPES = (jnp.float32, jnp.bfloat16, jnp.int8, jnp.float8_e4m3fn)
MAX_HEAD_DIM = 256


def empty_pages(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> KvPages:
    """Makes a layer's keys and values, [pages, page_size, K, H] each, filled with zeros.

    Args:
      num_pages: the number of pages.
      page_size: tokens.
      num_kv_heads: K.
      head_dim: H, at most MAX_HEAD_DIM.
      dtype: one of PAGE_DTYPES.

    Raises:
      ValueError: the kernels have no such heads.
    """
    if not has_heads(head_dim, dtype):
        names = ", ".join(jnp.dtype(each).name for each in PAGE_DTYPES)
        raise ValueError(
            f"pages on a GPU have heads of at most {MAX_HEAD_DIM} numbers in {names}, got heads of "
            f"{head_dim} in {jnp.dtype(dtype).name}: compute by XLA (FLAXEN_CPU_ISA=xla, or "
            "backend='reference' in Python)"
        )
    return blocked.empty_pages(num_pages, page_size, num_kv_heads, head_dim, dtype)


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether the kernels have heads of this size and dtype."""
    return 1 <= head_dim <= MAX_HEAD_DIM and jnp.dtype(dtype) in map(jnp.dtype, PAGE_DTYPES)


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    cache: KvPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
    is_invariant: bool = False,
) -> tuple[Float[Array, "T N H"], KvPages]:
    """Like `reference.paged_attention`; the pages are written in place if they are donated.

    Args:
      q: [T, N, H] queries.
      k: [T, K, H] new keys.
      v: [T, K, H] new values.
      cache: from `empty_pages`.
      batch: the sequences and pages of the tokens.
      window: as in the reference, like chunk, scale, softcap and sinks.
      chunk: tokens.
      scale: multiplies the scores.
      softcap: of the scores.
      sinks: [N].
      is_invariant: a token's bits depend on its own sequence alone, whatever is beside it in the
          step and however its prompt was divided into steps.
    """
    T, N, H = q.shape
    page_size, K = cache.keys.shape[1:3]
    plan = schedule(
        num_tokens=T,
        num_seqs=batch.kv_lens.shape[0],
        num_heads=(N, K),
        head_dim=H,
        max_len=batch.page_table.shape[1] * page_size,
        window=_least(window, chunk),
        is_invariant=is_invariant,
    )
    lanes = max(16, next_power_of_two(H))
    sizes = Sizes(
        rows=plan.rows,
        keys=BLOCKS[lanes].keys,
        split=plan.split,
        lanes=lanes,
        head_dim=H,
        group=N // K,
        page_size=page_size,
        window=window,
        chunk=chunk,
        scale=float(H**-0.5 if scale is None else scale),
        softcap=softcap,
    )
    if sinks is None:
        sinks = jnp.full((N,), -jnp.inf, jnp.float32)
    cache = write_pages(k, v, cache, batch)
    tiles = divide(batch, T, plan.rows // (N // K), plan.num_tiles)
    attend = functools.partial(_attend, plan=plan, sizes=sizes)
    positions = batch.token_positions(T)
    return by_platform(attend, q, cache, tiles, batch.page_table, positions, sinks), cache


def _least(window: int | None, chunk: int | None) -> int | None:
    """The most keys that a token sees."""
    return min((each for each in (window, chunk) if each is not None), default=None)


def _attend(
    q: jax.Array,
    cache: KvPages,
    tiles: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    sinks: jax.Array,
    *,
    plan: Schedule,
    sizes: Sizes,
    interpret: bool,
) -> jax.Array:
    T, N, _ = q.shape
    K = cache.keys.shape[2]
    out = jax.ShapeDtypeStruct(q.shape, q.dtype)
    params = _compiler_params(sizes, cache.keys.dtype)
    if plan.programs == 1:
        attended: jax.Array = pl.pallas_call(
            functools.partial(gpu_kernels.attend_tiles, sizes=sizes),
            out_shape=out,
            grid=(plan.num_tiles, K),
            compiler_params=params,
            interpret=interpret,
            name="paged_attention",
        )(tiles, table, q, cache, sinks)
        return attended
    parts = (T, plan.num_splits, N)
    maxima, sums, values = pl.pallas_call(
        functools.partial(gpu_kernels.attend_splits, sizes=sizes),
        out_shape=(
            jax.ShapeDtypeStruct(parts, jnp.float32),
            jax.ShapeDtypeStruct(parts, jnp.float32),
            jax.ShapeDtypeStruct((*parts, sizes.lanes), jnp.float32),
        ),
        grid=(plan.num_tiles, K, plan.programs),
        compiler_params=params,
        interpret=interpret,
        name="paged_attention_splits",
    )(tiles, table, q, cache)
    merging = sizes._replace(rows=next_power_of_two(sizes.group))
    merged: jax.Array = pl.pallas_call(
        functools.partial(gpu_kernels.merge_splits, sizes=merging),
        out_shape=out,
        grid=(T, K),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="paged_attention_merge",
    )(positions, maxima, sums, values, sinks)
    return merged


def _compiler_params(sizes: Sizes, dtype: jnp.dtype) -> plgpu.CompilerParams:
    """The compiler's settings, with at most three stages of fetching, as shared memory has room."""
    block_bytes = 2 * sizes.keys * sizes.lanes * jnp.dtype(dtype).itemsize
    warps = BLOCKS[sizes.lanes].warps
    return plgpu.CompilerParams(
        num_warps=min(8, warps if sizes.rows <= 64 else 2 * warps),
        num_stages=max(1, min(3, STAGE_BYTES // block_bytes)),
    )
