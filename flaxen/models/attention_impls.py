"""The implementations of `attend`: over pages for serving, over packed segments for training, and
over the whole prompts of a step for encoders.

Each is a pytree, so that it crosses a jit with its arrays; its backend and mesh are static in
there.
Deliberately does not know models, nor who runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from flaxen.attention_kernels.bidirectional_attention import bidirectional_attention
from flaxen.attention_kernels.causal_attention import causal_attention
from flaxen.attention_kernels.paged_attention import Pages, page_axes, paged_attention
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models.layer_cache import LayerPages, LayerStates
from flaxen.models.model import Attend, AttentionSpec, Recurrence
from flaxen.models.sharded_attention import over_pages, over_segments
from flaxen.recurrences.sequences import Segments
from flaxen.sharding.placement import Placement


def paged(
    batches: tuple[PagedBatch, ...], backend: Backend, placement: Placement | None = None
) -> Attend:
    """Attention over one row of tokens [T] that mixes sequences, in caches of `empty_layer`.

    Args:
      batches: which token belongs to which sequence and page, for each cache group.
      backend: the one that the pages were made for.
      placement: the mesh that the pages are laid over; None is one device.
    """
    return _Paged(batches=batches, backend=backend, placement=placement)


def causal(
    segment_ids: jax.Array | None, backend: Backend, placement: Placement | None = None
) -> Attend:
    """Attention over rows of tokens [B, T], without a cache.

    Args:
      segment_ids: [B, T], as in `causal_attention`.
      backend: the backend that computes.
      placement: the mesh that computes; None is one device.
    """
    return _Causal(segment_ids=segment_ids, backend=backend, placement=placement)


def whole_prompts(batch: PagedBatch, num_tokens: int, backend: Backend) -> Attend:
    """Attention over one row of tokens [T], all those of their sequences, without a cache.

    Args:
      batch: which token belongs to which sequence; its page table is not read.
      num_tokens: T.
      backend: the backend that computes.
    """
    is_token = batch.token_positions(num_tokens) >= 0
    segment_ids = jnp.where(is_token, batch.token_sequences(num_tokens) + 1, 0)
    return _WholePrompts(segment_ids=segment_ids, backend=backend)


class Staged(Attend, Protocol):
    """An `attend` that a pipeline can divide into microbatches; both of this file's can."""

    def split(self, num_parts: int) -> Staged:
        """The same with what it has for each row in microbatches, as `split_rows`."""

    def in_stage(self, part: jax.Array, is_active: jax.Array) -> Staged:
        """The attention of one microbatch in a stage, within a shard_map over the stages.

        Args:
          part: the microbatch's number.
          is_active: whether the stage has work in this turn; if not, no page may change.
        """


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Paged:
    batches: tuple[PagedBatch, ...]
    backend: Backend = field(metadata={"static": True})
    placement: Placement | None = field(metadata={"static": True})

    def __call__(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        cache: LayerPages,
        sinks: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerPages]:
        def run(*operands: Any) -> tuple[jax.Array, Pages]:
            q, k, v, sinks, *paged = operands
            return paged_attention(
                *(q, k, v, *paged), sinks=sinks, backend=self.backend, **_settings(spec)
            )

        call: Callable[..., tuple[jax.Array, Any]] = run
        if self.placement is not None:
            value_dim = 0 if v is None else v.shape[-1]
            axes = page_axes(q.shape[-1], value_dim, backend=self.backend)
            call = over_pages(run, self.placement, axes)
        out, pages = call(q, k, v, sinks, cache.pages, self.batches[cache.group])
        return out, LayerPages(pages=pages, group=cache.group)

    def recur(
        self, op: Recurrence, inputs: tuple[Any, ...], place: int, cache: LayerStates
    ) -> tuple[jax.Array, LayerStates]:
        states = list(cache.states)
        batch = self.batches[cache.group]
        out, states[place] = op(*inputs, states[place], batch, backend=self.backend)
        return out, replace(cache, states=tuple(states))

    def split(self, num_parts: int) -> Staged:
        assert num_parts == 1, "a step is not divided into microbatches"
        return self

    def in_stage(self, part: jax.Array, is_active: jax.Array) -> Staged:
        """Without work, the batch has no tokens: nothing is written to pages, or read."""
        batches = tuple(
            each._replace(kv_lens=each.kv_lens * is_active, cu_q_lens=each.cu_q_lens * is_active)
            for each in self.batches
        )
        return replace(self, batches=batches)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Causal:
    segment_ids: jax.Array | None
    backend: Backend = field(metadata={"static": True})
    placement: Placement | None = field(metadata={"static": True})

    def __call__(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        cache: Any,
        sinks: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        if not spec.causal:
            assert v is not None, "no encoder has its values in its keys"
            assert sinks is None, "no encoder has sinks"
            return _both_ways(spec, q, k, v, self.segment_ids, self.backend), cache

        def run(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array | None,
            sinks: jax.Array | None,
            segment_ids: jax.Array | None,
            first_query: jax.Array | None,
        ) -> jax.Array:
            return causal_attention(
                *(q, k, v),
                segment_ids=segment_ids,
                first_query=first_query,
                sinks=sinks,
                backend=self.backend,
                **_settings(spec),
            )

        if self.placement is None:
            return run(q, k, v, sinks, self.segment_ids, None), cache
        return over_segments(run, self.placement)(q, k, v, sinks, self.segment_ids), cache

    def recur(
        self, op: Recurrence, inputs: tuple[Any, ...], place: int, cache: Any
    ) -> tuple[jax.Array, Any]:
        out, _ = op(*inputs, None, Segments(self.segment_ids), backend=self.backend)
        return out, cache

    def split(self, num_parts: int) -> Staged:
        if self.segment_ids is None:
            return self
        return replace(self, segment_ids=split_rows(self.segment_ids, num_parts))

    def in_stage(self, part: jax.Array, is_active: jax.Array) -> Staged:
        return (
            self if self.segment_ids is None else replace(self, segment_ids=self.segment_ids[part])
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _WholePrompts:
    segment_ids: jax.Array  # [T]
    backend: Backend = field(metadata={"static": True})

    def __call__(
        self,
        spec: AttentionSpec,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        cache: Any,
        sinks: jax.Array | None = None,
    ) -> tuple[jax.Array, Any]:
        assert not spec.causal, "causal attention keeps its keys and values in pages"
        assert v is not None, "no encoder has its values in its keys"
        assert sinks is None, "no encoder has sinks"
        row = (q[None], k[None], v[None], self.segment_ids[None])
        return _both_ways(spec, *row, self.backend)[0], cache

    def recur(
        self, op: Recurrence, inputs: tuple[Any, ...], place: int, cache: Any
    ) -> tuple[jax.Array, Any]:
        raise AssertionError("no encoder has a recurrence")


def _both_ways(
    spec: AttentionSpec,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array | None,
    backend: Backend,
) -> jax.Array:
    assert spec.softcap is None, "no encoder has a softcap"
    return bidirectional_attention(
        q, k, v, segment_ids=segment_ids, window=spec.window, scale=spec.scale, backend=backend
    )


def split_rows(x: jax.Array, num_parts: int) -> jax.Array:
    """Microbatches of rows [B, ...]: [num_parts, B / num_parts, ...].

    Each takes every num_parts-th row, so that it has rows of every device that has some.
    """
    return x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1)


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _settings(spec: AttentionSpec) -> dict[str, Any]:
    """The settings of attention that is causal, as the kernels take them."""
    found = asdict(spec)
    assert found.pop("causal"), "the kernels of causal attention are asked for another"
    return found
