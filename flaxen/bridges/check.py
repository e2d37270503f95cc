"""Checks that a definition can be served: in pieces it must give the same logits as whole.

This finds silent faults: attention that is not causal or was not replaced, and positions that the
definition counts by itself. Deliberately does not know which framework it was written in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from flaxen.attention_kernels.paged_attention import has_pages
from flaxen.bridges.finite import check_numbers, without_zeros
from flaxen.bridges.signature import logits_of
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls, layer_cache
from flaxen.models.cache import Sliding, attention_only, head_sizes
from flaxen.models.model import AttentionSpec, Model, Params
from flaxen.models.param_spec import ParamSpec
from flaxen.models.params import compute_params, is_spec
from flaxen.sharding.mesh import without_mesh

_NUM_TOKENS, _PAGE = 16, 16  # few shapes, since each one is traced
_PAST = 8  # tokens computed after the longest window
# A check past a window may cost about a second; if it would cost more, the window is trusted.
_MOST_PRODUCTS, _MOST_SCORES = 2 * 10**11, 2**26
# The allowed root mean square difference of logits, relative to their standard deviation, by the
# dtype of attention: above rounding, below the effect of one hidden token. With 30 layers in
# bfloat16, two correct ways differed by 0.1 over random tokens.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 0.3, "float16": 0.05}


@without_mesh()
def check_served(
    model: Model,
    params: Params,
    whole: Callable[[Params, jax.Array, jax.Array], Any],
    *,
    name: str,
    has_own_weights: bool = False,
    windows: Sequence[int] = (),
) -> None:
    """Compares the original definition with the Model, over segments and in two pieces over pages.

    All runs have one shape, so that the definition is traced once; the pieces are padded like
    steps. Parameters that are all zeros hide what comes before them (a new head hides all
    attention), so the check replaces them by small random numbers.

    Args:
      model: the Model made from the definition.
      params: its parameters, as arrays.
      whole: the original definition as a function of parameters, tokens [1, T] and
          positions [1, T].
      name: the definition's name, for messages.
      has_own_weights: `whole` ignores its first argument and computes with its own parameters,
          which equal `params`.
      windows: windows that the definition may have, in addition to those of its layers.

    Raises:
      ValueError: the logits differ, or are NaN or infinite.
    """
    length = _length(model, windows)
    tokens = jnp.asarray(
        np.random.default_rng(0).integers(0, model.vocab_size, (1, length)), jnp.int32
    )
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    params = jax.tree.map(jnp.asarray, params)  # converted once, if they are NumPy arrays
    params = params if has_own_weights else without_zeros(model, params)
    expected = logits_of(whole(params, tokens, positions))[0].astype(jnp.float32)
    check_numbers(params, expected, 0, name)
    dtype = _attention_dtype(model, params, tokens)
    model = _that_runs(model, dtype)
    params = _packed(model, params)  # as in serving; this also compiles several times faster
    trained = _over_segments(model, params, tokens, positions)
    served = _in_pieces(model, params, tokens[0], positions[0], dtype)
    tolerance = _TOLERANCES[dtype.name]
    _compare(
        trained,
        expected,
        tolerance,
        f"{name} gives other logits with flaxen's attention than with its own. Its attention must "
        "be causal and have nothing else in its mask (for a window, let it call "
        "flaxen.attend(q, k, v, window=...)), and its first position must be 0",
    )
    _compare(
        served,
        expected,
        tolerance,
        f"{name} gives other logits in two pieces than as a whole. It must take the tokens' "
        "positions as an argument `positions`, not count them itself, and tokens may only meet in "
        "attention that flaxen can replace",
    )
    first = model.max_position - length
    last = _over_segments(model, params, tokens, positions + first)
    check_numbers(params, last, first, name)


def _length(model: Model, windows: Sequence[int]) -> int:
    """The number of tokens to compare: more than the longest window for which that is fast."""
    num_params = sum(
        math.prod(spec.shape) for spec in jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    )
    length = _NUM_TOKENS
    own = (spec.window for spec in model.cache_specs if isinstance(spec, Sliding))
    for window in (*windows, *own):
        past = -(-(window + _PAST) // _PAGE) * _PAGE
        if past * num_params <= _MOST_PRODUCTS and past * model.vocab_size <= _MOST_SCORES:
            length = max(length, past)
    return min(length, model.max_position)


def _compare(found: jax.Array, expected: jax.Array, tolerance: float, message: str) -> None:
    """Refuses logits whose difference, relative to how much they vary with the tokens, is too
    large.
    """
    is_finite = jnp.isfinite(expected)
    apart = jnp.where(is_finite, found - expected, jnp.where(found == expected, 0, jnp.nan))
    variances = jnp.var(jnp.where(is_finite, expected, 0), axis=0)
    varies = is_finite.all(axis=0) & (variances > 0)
    deviation = float(jnp.sqrt(jnp.mean(variances, where=varies))) if bool(varies.any()) else 1.0
    difference = float(jnp.sqrt(jnp.mean(apart**2, where=is_finite | jnp.isnan(apart)))) / deviation
    if not difference <= tolerance:
        raise ValueError(
            f"{message}. (The logits differ by {difference:.2g} of their standard deviation; "
            f"{tolerance} would still be rounding.)"
        )


def _over_segments(
    model: Model, params: Params, tokens: jax.Array, positions: jax.Array
) -> jax.Array:
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(
        params, tokens, positions, attention_impls.causal(None, model.backend), cache
    )
    return model.unembed(params, hidden[0])


def _packed(model: Model, params: Params) -> Params:
    def one(spec: ParamSpec, leaf: jax.Array) -> Any:
        has_kernels = leaf.dtype in (jnp.float32, jnp.bfloat16)
        backend = model.backend if has_kernels else Backend.REFERENCE
        return compute_params(spec, leaf, dtype=leaf.dtype, backend=backend)

    pack = jax.jit(lambda params: jax.tree.map(one, model.param_specs, params, is_leaf=is_spec))
    return pack(params)


def _that_runs(model: Model, dtype: jnp.dtype) -> Model:
    """The model on its backend, or on the reference where its pages can't hold such attention."""
    specs = attention_only(model.cache_specs)
    runs = all(
        has_pages(head_dim, dtype, value_dim=value_dim, backend=model.backend)
        for head_dim, value_dim in map(head_sizes, specs)
    )
    return model if runs else model.on(Backend.REFERENCE)


def _in_pieces(
    model: Model, params: Params, tokens: jax.Array, positions: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    num_pages = -(-len(tokens) // _PAGE)
    cache = tuple(
        layer_cache.empty_layer(spec, num_pages, _PAGE, dtype, backend=model.backend)
        for spec in attention_only(model.cache_specs)
    )
    found, middle = [], len(tokens) // 2
    for piece in (slice(0, middle), slice(middle, len(tokens))):
        stop = piece.stop
        batch = PagedBatch(
            kv_lens=jnp.array([stop], jnp.int32),
            page_table=jnp.arange(num_pages, dtype=jnp.int32)[None],
            cu_q_lens=jnp.array([0, stop - piece.start], jnp.int32),
        )
        padding = (0, len(tokens) - (stop - piece.start))
        hidden, cache = model.forward(
            params,
            jnp.pad(tokens[piece], padding, constant_values=-1),
            jnp.pad(positions[piece], padding),
            attention_impls.paged((batch,), model.backend),
            cache,
        )
        found.append(model.unembed(params, hidden)[: stop - piece.start])
    return jnp.concatenate(found)


def _attention_dtype(model: Model, params: Params, tokens: jax.Array) -> jnp.dtype:
    found: list[jnp.dtype] = []

    def attend(spec: AttentionSpec, q: jax.Array, *others: Any) -> Any:
        found.append(q.dtype)
        return q, others[2]

    cache = (None,) * len(model.cache_specs)
    jax.eval_shape(model.forward, params, tokens, tokens, Partial(attend), cache)
    return found[0]
