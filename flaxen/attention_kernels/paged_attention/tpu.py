"""Paged attention for TPU by a Pallas kernel of our own, over pages in that kernel's layout.

Deliberately does not know the kernel's walk: tpu_kernel.py.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Float32

from flaxen.attention_kernels.paged_attention.pages import KvPages, TpuPages
from flaxen.attention_kernels.paged_attention.tpu_copies import LANES, QueryBlocks, Refs, Sizes
from flaxen.attention_kernels.paged_attention.tpu_kernel import run
from flaxen.attention_kernels.paged_attention.write import as_stored
from flaxen.kernels.interpret import by_platform
from flaxen.kernels.paged_batch import PagedBatch

PAGE_MULTIPLE = 16  # tokens: a page is a whole number of bfloat16 tiles
PAGE_AXES = (None, "kv_heads", None, None)
DTYPES = ("float32", "bfloat16", "float8_e4m3fn")  # of pages
_HALF = LANES // 2
_MAX_HEAD = 256
_QUERY_BLOCK = 64  # tokens
_KEY_BLOCK = 512  # tokens
_BUFFER_BYTES = 2 << 20  # of a key block; there are two
_RESULT_BYTES = 2 << 20  # of a query block, in float32
_VMEM_BYTES = 64 << 20  # of the 128 MiB that v5e and v6e have; the compiler's default is less
_TABLE_BYTES = 768 << 10  # of the scalar memory, 1 MiB


def lanes_of_keys(head_dim: int) -> int:
    """The lanes of a page's row that hold a key; the same number after it holds the value.

    Two heads of at most 64 fill the 128 lanes of a tile: they take no more memory than they need.
    """
    return _HALF if head_dim <= _HALF else -(-head_dim // LANES) * LANES


def empty_pages(
    num_pages: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: jnp.dtype
) -> TpuPages:
    """Makes a layer's pages, filled with zeros.

    A token's key and value lie beside each other in one row, so that one copy brings a page of all
    heads: [pages, K, page_size, lanes], the key in the first half of the lanes and the value in the
    second. Its last two axes are whole tiles for any number of heads, and a mesh divides the axis
    of the heads.

    Args:
      num_pages: the number of pages.
      page_size: tokens, a multiple of 16 that divides 128.
      num_kv_heads: K.
      head_dim: H.
      dtype: one of DTYPES.

    Raises:
      ValueError: the kernel does not support the page size, the heads or the dtype.
    """
    _check_page_size(page_size)
    if not has_heads(head_dim, dtype):
        raise ValueError(
            f"attention on a TPU has heads of up to {_MAX_HEAD} numbers and pages of "
            f"{', '.join(DTYPES)}, not heads of {head_dim} in {jnp.dtype(dtype).name}: compute "
            "by XLA (FLAXEN_CPU_ISA=xla, or backend='reference' in Python)"
        )
    return jnp.zeros((num_pages, num_kv_heads, page_size, 2 * lanes_of_keys(head_dim)), dtype)


def has_heads(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel supports heads of this size and dtype."""
    return head_dim <= _MAX_HEAD and jnp.dtype(dtype).name in DTYPES


def paged_attention(
    q: Float[Array, "T N H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    pages: TpuPages,
    batch: PagedBatch,
    *,
    window: int | None = None,
    chunk: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float32[Array, N] | None = None,
) -> tuple[Float[Array, "T N H"], TpuPages]:
    """Like `reference.paged_attention`, over `empty_pages`; in place if the pages are donated.

    Products are of q's dtype with float32 sums, in full precision for float32; keys and values are
    rounded to the dtype of the pages. On a CPU the kernel is interpreted.

    Raises:
      ValueError: the kernel does not support a size, or there are so many pages that their table
          does not fit into the scalar memory.
    """
    T, N, H = q.shape
    _, K, page_size, lanes = pages.shape
    _check_page_size(page_size)
    key_lanes = lanes_of_keys(H)
    if lanes != 2 * key_lanes:
        raise ValueError(f"pages of {lanes} lanes do not hold heads of {H}")
    _check_table(batch.page_table.size)
    is_shared = key_lanes == _HALF  # keys and values in one tile: both are read, one is used
    G = N // K
    sizes = Sizes(
        num_kv_heads=K,
        heads_per_kv_head=G,
        page_size=page_size,
        max_pages=batch.page_table.shape[1],
        query_block=_query_block(N, lanes if is_shared else key_lanes),
        key_block=_key_block(page_size, K * lanes * pages.dtype.itemsize),
        tile=min(page_size, 32 // pages.dtype.itemsize),  # 8 sublanes of 32 bits
        key_lanes=lanes if is_shared else key_lanes,
        value_start=0 if is_shared else key_lanes,
        window=window,
        chunk=chunk,
        scale=float(H**-0.5 if scale is None else scale),
        softcap=softcap,
        compute_dtype=q.dtype,
        heads_at_once=1,
    )
    padding = (0, sizes.query_block)  # a block at the end reads and writes behind the tokens
    wide_q = jnp.pad(
        q.astype(jnp.float32).reshape(T, K, G, H),
        (padding, (0, 0), (0, 0), (0, sizes.key_lanes - H)),
    )
    in_row = ((0, 0), (0, 0), (0, key_lanes - H))
    new = jnp.concatenate([jnp.pad(as_stored(x, pages.dtype), in_row) for x in (k, v)], axis=-1)
    new = jnp.pad(new.astype(jnp.float32)[:, :, None], (padding, (0, 0), (0, 0), (0, 0)))
    wide_sinks = None if sinks is None else jnp.broadcast_to(
        sinks.reshape(K, G, 1), (K, G, LANES)
    )  # fmt: skip
    scalars = (_query_blocks(batch, T, sizes.query_block), batch.page_table.reshape(-1))
    out, pages = by_platform(
        functools.partial(_call, sizes), scalars, wide_q, new, wide_sinks, pages
    )
    first = key_lanes if is_shared else 0
    out = out[:T, :, :, first : first + H].reshape(T, N, H)
    is_token = jnp.arange(T) < batch.cu_q_lens[-1]
    return jnp.where(is_token[:, None, None], out, 0).astype(q.dtype), pages


def _call(
    sizes: Sizes,
    scalars: tuple[QueryBlocks, jax.Array],
    q: jax.Array,
    new: jax.Array,
    sinks: jax.Array | None,
    pages: jax.Array,
    *,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    if not interpret:  # which it would only slow down
        sizes = dataclasses.replace(sizes, heads_at_once=2 - sizes.num_kv_heads % 2)
    has_sinks = sinks is not None
    K, G, block = sizes.num_kv_heads, sizes.heads_per_kv_head, sizes.query_block
    lanes = pages.shape[3]
    value_lanes = lanes - sizes.value_start
    flat = [*scalars[0], scalars[1]]

    def body(*refs: Any) -> None:
        scalar_refs, rest = refs[: len(flat)], list(refs[len(flat) :])
        if not has_sinks:
            rest.insert(2, None)
        del rest[3]  # the pages as an input: the output is the same memory
        run(Refs(QueryBlocks(*scalar_refs[:-1]), scalar_refs[-1], *rest), sizes, has_sinks)

    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    in_vmem = pl.BlockSpec(memory_space=pltpu.VMEM)
    operands = [*flat, q, new, *([sinks] if has_sinks else []), pages]
    out: tuple[jax.Array, jax.Array] = pl.pallas_call(
        body,
        out_shape=(
            jax.ShapeDtypeStruct((*q.shape[:3], value_lanes), jnp.float32),
            jax.ShapeDtypeStruct(pages.shape, pages.dtype),
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(flat),
            grid=(),
            in_specs=[anywhere, anywhere, *([in_vmem] if has_sinks else []), anywhere],
            out_specs=(anywhere, anywhere),
            scratch_shapes=[
                pltpu.VMEM((2, block, K, G, sizes.key_lanes), jnp.float32),
                pltpu.VMEM((2, block + 2 * sizes.tile, K, 1, lanes), jnp.float32),
                pltpu.VMEM((block, K, G, value_lanes), jnp.float32),
                pltpu.VMEM((2, sizes.pages_per_block, K, sizes.page_size, lanes), pages.dtype),
                pltpu.VMEM((K, block * G, LANES), jnp.float32),
                pltpu.VMEM((K, block * G, LANES), jnp.float32),
                pltpu.VMEM((K, block * G, value_lanes), jnp.float32),
                pltpu.SMEM((2,), jnp.int32),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SemaphoreType.DMA((2,)),
                pltpu.SemaphoreType.DMA((1,)),
            ],
        ),
        input_output_aliases={len(operands) - 1: 1},
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_VMEM_BYTES),
        interpret=interpret,
        name="flaxen_paged_attention",
    )(*operands)
    return out


def _query_block(num_heads: int, lanes: int) -> int:
    block = _QUERY_BLOCK
    while block > 1 and block * num_heads * lanes * 4 > _RESULT_BYTES:
        block //= 2
    return block


def _key_block(page_size: int, token_bytes: int) -> int:
    """The tokens of a key block: as many in every batch, so that a token's sums have one order."""
    block = _KEY_BLOCK
    while block > max(LANES, page_size) and block * token_bytes > _BUFFER_BYTES:
        block //= 2
    return block


def _query_blocks(batch: PagedBatch, T: int, block: int) -> QueryBlocks:
    """Splits the T tokens into blocks of one sequence each, of at most `block` tokens."""
    S = batch.kv_lens.shape[0]
    q_lens = jnp.diff(batch.cu_q_lens)
    ends = jnp.cumsum(-(-q_lens // block))
    # One more than there can be: the kernel looks one ahead.
    ids = jnp.arange(min(T, T // block + S) + 1, dtype=jnp.int32)
    owners = jnp.minimum(jnp.searchsorted(ends, ids, side="right", method="compare_all"), S - 1)
    offsets = (ids - jnp.where(owners > 0, ends[owners - 1], 0)) * block
    return QueryBlocks(
        number=ends[-1:].astype(jnp.int32),
        owners=owners.astype(jnp.int32),
        starts=batch.cu_q_lens[owners] + offsets,
        positions=batch.kv_lens[owners] - q_lens[owners] + offsets,
        counts=jnp.clip(q_lens[owners] - offsets, 0, block),
    )


def to_reference(pages: TpuPages, head_dim: int) -> KvPages:
    """Converts pages to the layout of `reference` and `blocked`, [pages, page_size, K, H]."""
    half = pages.shape[3] // 2
    by_token = pages.transpose(0, 2, 1, 3)
    return KvPages(by_token[..., :head_dim], by_token[..., half : half + head_dim])


def from_reference(cache: KvPages) -> TpuPages:
    """The inverse of `to_reference`."""
    head_dim = cache.keys.shape[3]
    assert cache.values is not None
    padding = ((0, 0), (0, 0), (0, 0), (0, lanes_of_keys(head_dim) - head_dim))
    rows = [jnp.pad(x, padding) for x in (cache.keys, cache.values)]
    return jnp.concatenate(rows, axis=-1).transpose(0, 2, 1, 3)


def _check_table(num_entries: int) -> None:
    if 4 * num_entries > _TABLE_BYTES:
        raise ValueError(
            f"a page table of {num_entries} entries does not fit into the TPU's scalar memory, "
            f"which has room for {_TABLE_BYTES // 4}: use larger pages (--page-size 128), fewer "
            "sequences (--max-num-seqs) or a shorter context (--max-model-len)"
        )


def _check_page_size(page_size: int) -> None:
    if page_size < 1 or page_size % PAGE_MULTIPLE or LANES % page_size:
        raise ValueError(
            f"the TPU kernel needs a page size of 16, 32, 64 or 128 tokens, got {page_size}"
        )
