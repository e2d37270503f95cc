"""The ops that keep a state, with inputs of awkward sizes, for their tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.gated_delta import Gates, gated_delta
from flaxen.recurrences.gated_delta import state_shape as delta_shape
from flaxen.recurrences.sequences import Segments
from flaxen.recurrences.short_convolution import short_convolution
from flaxen.recurrences.short_convolution import state_shape as convolution_shape
from flaxen.recurrences.state_space import Dynamics, state_space
from flaxen.recurrences.state_space import state_shape as space_shape
from tests.kernels.arrays import normal


class Op(NamedTuple):
    """An op as a function of what differs between tokens, and of its parameters."""

    run: Callable[..., tuple[jax.Array, Any]]  # tokens, params, states, batch, backend=
    token_shapes: tuple[tuple[int, ...], ...]
    param_shapes: tuple[tuple[int, ...], ...]
    state_shape: tuple[int, ...]

    def tokens(self, *leading: int, dtype: str) -> tuple[jax.Array, ...]:
        return tuple(
            normal(f"tokens {i}", *leading, *shape, dtype=dtype)
            for i, shape in enumerate(self.token_shapes)
        )

    def params(self) -> tuple[jax.Array, ...]:
        return tuple(normal(f"params {i}", *each) for i, each in enumerate(self.param_shapes))


def _convolution(tokens, params, states, batch, *, has_silu, backend):  # type: ignore[no-untyped-def]
    weight, *bias = params
    return short_convolution(
        tokens[0],
        weight,
        bias[0] if bias else None,
        states,
        batch,
        has_silu=has_silu,
        backend=backend,
    )


def _delta(tokens, params, states, batch, *, backend):  # type: ignore[no-untyped-def]
    q, k, v, a, b = tokens
    return gated_delta(q, k, v, Gates(a, b, *params), states, batch, backend=backend)


def _space(tokens, params, states, batch, *, dt_limit, backend):  # type: ignore[no-untyped-def]
    x, b, c, dt = tokens
    dynamics = Dynamics(dt, *params)
    return state_space(x, b, c, dynamics, states, batch, dt_limit=dt_limit, backend=backend)


def convolution(num_channels: int, num_taps: int, *, has_bias: bool, has_silu: bool) -> Op:
    bias = ((num_channels,),) if has_bias else ()
    return Op(
        functools.partial(_convolution, has_silu=has_silu),
        ((num_channels,),),
        ((num_taps, num_channels), *bias),
        convolution_shape(num_taps, num_channels),
    )


def delta(K: int, N: int, H: int, P: int) -> Op:
    shapes = ((K, H), (K, H), (N, P), (N,), (N,))
    return Op(_delta, shapes, ((N,), (N,)), delta_shape(N, H, P))


def space(G: int, N: int, H: int, P: int, dt_limit: tuple[float, float] = (0.0, np.inf)) -> Op:
    run = functools.partial(_space, dt_limit=dt_limit)
    shapes = ((N, P), (G, H), (G, H), (N,))
    return Op(run, shapes, ((N,), (N,), (N,)), space_shape(N, H, P))


OPS = {
    "convolution": convolution(19, 3, has_bias=False, has_silu=False),
    "wide convolution": convolution(530, 4, has_bias=True, has_silu=True),
    "delta": delta(2, 6, 12, 10),
    "wide delta": delta(1, 2, 32, 72),
    "space": space(1, 3, 7, 5),
    "grouped space": space(2, 4, 16, 64, (0.1, 1.5)),
}


@functools.cache
def jitted(name: str, backend: Backend) -> Callable[..., tuple[jax.Array, Any]]:
    return jax.jit(functools.partial(OPS[name].run, backend=backend))


def in_training(name: str, tokens: Any, ids: np.ndarray | None, backend: Backend) -> np.ndarray:
    """The outputs of rows [B, T]."""
    segments = Segments(None if ids is None else jnp.asarray(ids, jnp.int32))
    return np.asarray(jitted(name, backend)(tokens, OPS[name].params(), None, segments)[0])


class Server:
    """Computes sequences in steps, as an engine does: a slot for each, other slots between."""

    def __init__(self, name: str, num_seqs: int, backend: Backend) -> None:
        self._name, self._backend = name, backend
        self._slots = np.random.default_rng(1).permutation(num_seqs + 3)[:num_seqs]
        # Whatever another sequence left there.
        self.states = jnp.full((num_seqs + 3, *OPS[name].state_shape), np.nan, jnp.float32)
        self._num_computed = np.zeros(num_seqs, int)

    def free_states(self) -> np.ndarray:
        return np.delete(np.asarray(self.states), self._slots, axis=0)

    def step(self, tokens: Any, counts: dict[int, int], num_tokens: int) -> dict[int, np.ndarray]:
        """Computes the next tokens of some sequences, padded to num_tokens.

        Args:
          tokens: the op's, [sequences, length, ...].
          counts: the tokens of each sequence of the step.
          num_tokens: T.
        """
        parts: list[tuple[int, int, int]] = []
        for seq, count in counts.items():
            start = int(self._num_computed[seq])
            parts.append((seq, start, start + count))
            self._num_computed[seq] += count
        row = [
            np.concatenate([np.asarray(each)[seq, a:b] for seq, a, b in parts]) for each in tokens
        ]
        missing = num_tokens - row[0].shape[0]
        row = [np.concatenate([x, np.full((missing, *x.shape[1:]), np.nan, x.dtype)]) for x in row]
        padding = [0] * 2
        batch = PagedBatch(
            jnp.asarray([*(end for _, _, end in parts), *padding], jnp.int32),
            jnp.asarray([[self._slots[seq]] for seq, _, _ in parts] + [[0]] * 2, jnp.int32),
            jnp.asarray(np.cumsum([0, *(b - a for _, a, b in parts), *padding]), jnp.int32),
        )
        run = jitted(self._name, self._backend)
        out, self.states = run(tuple(row), OPS[self._name].params(), self.states, batch)
        found, at = {}, 0
        for seq, start, end in parts:
            found[seq] = np.asarray(out)[at : at + end - start]
            at += end - start
        assert not np.asarray(out)[at:].any()
        return found
