"""Attention on a mesh: each device has some of the heads, and computes these alone.

XLA can't divide a kernel, so the op runs inside shard_map, on the device's own part of the heads,
of the batch and of the pages. Deliberately does not know the ops, nor models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from flaxen.sharding.placement import Placement


def check_heads(num_heads: int, num_kv_heads: int, num_parts: int) -> None:
    """Refuses heads that can't be divided over the tensor axis.

    Args:
      num_heads: N.
      num_kv_heads: K.
      num_parts: the devices along the tensor axis.

    Raises:
      ValueError: the parts would not have equally many query heads, or the query heads of a part
          would need parts of the KV heads that it shares with others.
    """
    if can_divide(num_heads, num_kv_heads, num_parts):
        return
    fits = [n for n in range(1, num_heads + 1) if can_divide(num_heads, num_kv_heads, n)]
    raise ValueError(
        f"{num_heads} query heads and {num_kv_heads} KV heads can't be divided over tensor="
        f"{num_parts}: use a tensor axis of {', '.join(map(str, fits))}"
    )


def can_divide(num_heads: int, num_kv_heads: int, num_parts: int) -> bool:
    """Whether each part gets equally many query heads, with all of their KV heads."""
    divides = num_kv_heads % num_parts == 0 or num_parts % num_kv_heads == 0
    return num_heads % num_parts == 0 and divides


def num_page_heads(num_kv_heads: int, placement: Placement | None) -> int:
    """The number of KV heads that the pages have on the whole mesh.

    With fewer KV heads than devices along the tensor axis, each device has a copy of the one that
    its query heads read.
    """
    return num_kv_heads if placement is None else max(num_kv_heads, placement.shape.tensor)


def over_pages(
    run: Callable[..., tuple[jax.Array, Any]],
    placement: Placement,
    page_axes: tuple[str | None, ...],
) -> Callable[..., tuple[jax.Array, Any]]:
    """Makes paged attention run on each device's own heads.

    Args:
      run: takes q [T, N, H], k [T, K, H], v [T, K, V] or None, sinks [N] or None, pages and batch;
          returns [T, N, V] and the pages.
      placement: the mesh; its data, fsdp and context axes are not used here.
      page_axes: the logical axes of each array of the pages.
    """
    parts = placement.shape.tensor

    def call(
        q: jax.Array, k: jax.Array, v: jax.Array | None, *others: Any
    ) -> tuple[jax.Array, Any]:
        num_kv_heads = k.shape[-2]
        check_heads(q.shape[-2], num_kv_heads, parts)
        is_copied = num_kv_heads % parts != 0
        heads = P(None, "tensor", None)
        pages_spec = P(*("tensor" if axis == "kv_heads" else None for axis in page_axes))

        def on_device(
            q: jax.Array, k: jax.Array, v: jax.Array | None, *others: Any
        ) -> tuple[jax.Array, Any]:
            if is_copied:
                k, v = own_head(k, parts), None if v is None else own_head(v, parts)
            return run(q, k, v, *others)

        mapped = placement.shard_map(
            on_device,
            in_specs=(heads, *(P() if is_copied else heads,) * 2, P("tensor"), pages_spec, P()),
            out_specs=(heads, pages_spec),
        )
        found: tuple[jax.Array, Any] = mapped(q, k, v, *others)
        return found

    return call


def over_segments(run: Callable[..., jax.Array], placement: Placement) -> Callable[..., jax.Array]:
    """Makes causal attention run on each device's own heads and rows, and its part of the queries.

    Along the context axis each device has the queries of its part of the sequences, and gathers
    the keys and values of the whole: they are small beside the scores.

    Args:
      run: takes q [B, T, N, H], k [B, S, K, H], v [B, S, K, V] or None, sinks [N] or None,
          segment ids [B, S], and the place of the first query, or None if T = S; returns
          [B, T, N, V].
      placement: the mesh.
    """
    parts = placement.shape.tensor

    def call(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        sinks: jax.Array | None,
        segment_ids: jax.Array | None,
    ) -> jax.Array:
        check_heads(q.shape[-2], k.shape[-2], parts)
        is_copied = k.shape[-2] % parts != 0
        row_axes = ("batch", "length", "heads", None)
        q_spec = placement.spec(row_axes, q.shape)
        rows, length = q_spec[0], q_spec[1]
        kv_spec = P(rows, length, None if is_copied else "tensor", None)

        def on_device(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array | None,
            sinks: jax.Array | None,
            segment_ids: jax.Array | None,
        ) -> jax.Array:
            if is_copied:
                k, v = own_head(k, parts), None if v is None else own_head(v, parts)
            if length is None:
                return run(q, k, v, sinks, segment_ids, None)
            return _own_queries(run, q, k, v, sinks, segment_ids)

        ids_spec = None if segment_ids is None else P(rows, length)
        mapped = placement.shard_map(
            on_device,
            in_specs=(q_spec, kv_spec, kv_spec, P("tensor"), ids_spec),
            out_specs=q_spec,
        )
        found: jax.Array = mapped(q, k, v, sinks, segment_ids)
        return found

    return call


def own_head(x: jax.Array, parts: int) -> jax.Array:
    """The one KV head that the device's query heads read, of [..., K, H]: [..., 1, H]."""
    head = jax.lax.axis_index("tensor") * x.shape[-2] // parts
    return jax.lax.dynamic_slice_in_dim(x, head, 1, axis=-2)


def _own_queries(
    run: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    sinks: jax.Array | None,
    segment_ids: jax.Array | None,
) -> jax.Array:
    """Attention of the device's queries over the keys of the whole rows."""
    first = jax.lax.axis_index("context") * q.shape[1]
    k = jax.lax.all_gather(k, "context", axis=1, tiled=True)
    v = None if v is None else jax.lax.all_gather(v, "context", axis=1, tiled=True)
    if segment_ids is not None:
        segment_ids = jax.lax.all_gather(segment_ids, "context", axis=1, tiled=True)
    return run(q, k, v, sinks, segment_ids, first)
