"""Ops that keep a state: one definition by hand, chunked = whole = decode = batched = trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.recurrences.sequences import Segments
from tests.kernels.arrays import normal
from tests.kernels.pairwise import ISAS, THREADS, pairwise
from tests.recurrences.ops import OPS, Server, in_training, jitted

LENGTH = 9
# Each unit of rounding of a bfloat16 output.
LIMIT = {"float32": 2e-5, "bfloat16": 2.0**-7}
PLANS = {
    "whole": [{0: 9, 1: 9, 2: 9}],
    "chunks": [{0: 4, 2: 9}, {1: 2, 0: 5}, {1: 7}],
    "decode": [{0: 1, 1: 1, 2: 1}] * 9,
    "mixed": [{2: 6}, {2: 1, 0: 8}, {1: 9, 2: 1, 0: 1}, {2: 1}],
}


def served(name: str, plan: str, dtype: str, backend: Backend) -> np.ndarray:
    tokens = OPS[name].tokens(3, LENGTH, dtype=dtype)
    server = Server(name, 3, backend)
    outs: dict[int, list[np.ndarray]] = {0: [], 1: [], 2: []}
    for counts in PLANS[plan]:
        for seq, out in server.step(tokens, counts, 30).items():
            outs[seq].append(out)
    assert np.isnan(server.free_states()).all()
    return np.stack([np.concatenate(each) for each in outs.values()])


def by_hand(name: str, tokens: tuple[jax.Array, ...]) -> np.ndarray:
    """In float64, from the equations."""
    params = [np.asarray(each, np.float64) for each in OPS[name].params()]
    rows = [np.asarray(each, np.float64) for each in tokens]
    return np.stack([_one_by_hand(name, [x[i] for x in rows], params) for i in range(3)])


def _one_by_hand(name: str, tokens: list[np.ndarray], params: list[np.ndarray]) -> np.ndarray:
    if "convolution" in name:
        (x,), weight = tokens, params[0]
        padded = np.concatenate([np.zeros((len(weight) - 1, x.shape[1])), x])
        outs = np.stack([(weight * padded[t : t + len(weight)]).sum(0) for t in range(len(x))])
        if len(params) > 1:
            outs = outs + params[1]
        return outs / (1 + np.exp(-outs)) if name == "wide convolution" else outs
    if "delta" in name:
        q, k, v, a, b = tokens
        q, k = (x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) for x in (q, k))
        k, q = (np.repeat(x, v.shape[1] // x.shape[1], axis=1) for x in (k, q))
        q = q / np.sqrt(q.shape[-1])
        decay = np.exp(-np.exp(params[0]) * np.log1p(np.exp(a + params[1])))
        strength, added, skip = 1 / (1 + np.exp(-b)), v, np.zeros(v.shape[1])
    else:
        v, k, q, dt = tokens
        k, q = (np.repeat(x, v.shape[1] // x.shape[1], axis=1) for x in (k, q))
        limits = (0.1, 1.5) if name == "grouped space" else (0, np.inf)
        dt = np.clip(np.log1p(np.exp(dt + params[1])), *limits)
        decay, strength, skip = np.exp(-np.exp(params[0]) * dt), dt, params[2]
    state, outs = np.zeros(OPS[name].state_shape), []
    for t in range(len(v)):
        state = state * decay[t][:, None, None]
        added = v[t] - np.einsum("nhp,nh->np", state, k[t]) if "delta" in name else v[t]
        state = state + k[t][:, :, None] * (added * strength[t][:, None])[:, None]
        outs.append(np.einsum("nhp,nh->np", state, q[t]) + skip[:, None] * v[t])
    return np.stack(outs)


@pytest.mark.parametrize("name", ["wide convolution", "delta", "grouped space"])
def test_the_reference_is_the_equation(name: str) -> None:
    tokens = OPS[name].tokens(3, LENGTH, dtype="float32")
    expected = by_hand(name, tokens)
    found = in_training(name, tokens, None, Backend.REFERENCE)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    mixed = served(name, "mixed", "float32", Backend.REFERENCE)
    np.testing.assert_allclose(mixed, expected, rtol=2e-5, atol=2e-5)


@pairwise({"isa": ISAS, "name": OPS, "dtype": LIMIT, "num_threads": THREADS})
def test_the_kernel_is_the_reference_and_every_plan_has_its_bits(
    isa: str, name: str, dtype: str, num_threads: int
) -> None:
    tokens = OPS[name].tokens(3, LENGTH, dtype=dtype)
    whole = in_training(name, tokens, None, Backend.CPU)
    reference = in_training(name, tokens, None, Backend.REFERENCE)
    scale = np.abs(np.asarray(reference, np.float32)).max()
    np.testing.assert_allclose(
        np.asarray(whole, np.float32) / scale,
        np.asarray(reference, np.float32) / scale,
        atol=LIMIT[dtype],
        rtol=0,
    )
    for plan in PLANS:
        assert served(name, plan, dtype, Backend.CPU).tobytes() == whole.tobytes(), plan
    cpu_library.start(num_threads=1)
    assert in_training(name, tokens, None, Backend.CPU).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("name", "backend"),
    [("delta", Backend.REFERENCE), *((name, Backend.CPU) for name in OPS)],
)
def test_segments_are_sequences_and_padding_is_zeros(name: str, backend: Backend) -> None:
    """Also over several blocks of a gradient, and where padding lies between the segments."""
    tokens = OPS[name].tokens(2, 80, dtype="float32")
    ids = np.zeros((2, 80), np.int32)
    ids[0, :50], ids[0, 52:70] = 1, 2
    ids[1, 3:75] = 7
    dirty = tuple(
        jnp.where((ids == 0).reshape(2, 80, *[1] * (x.ndim - 2)), jnp.nan, x) for x in tokens
    )
    found = in_training(name, dirty, ids, backend)
    assert not found[ids == 0].any()
    for row, first, last in ((0, 0, 50), (0, 52, 70), (1, 3, 75)):
        alone = in_training(name, tuple(x[row, first:last][None] for x in tokens), None, backend)
        if backend is Backend.CPU:
            assert found[row, first:last].tobytes() == alone[0].tobytes()
        np.testing.assert_allclose(found[row, first:last], alone[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["convolution", "delta", "space"])
def test_the_gradient_of_training_is_that_of_the_equation(name: str) -> None:
    op = OPS[name]
    tokens, params = op.tokens(2, 70, dtype="float32"), op.params()
    ids = jnp.asarray(np.repeat([[1] * 40 + [2] * 28 + [0] * 2], 2, axis=0), jnp.int32)
    upstream = jnp.cos(jnp.arange(70.0))[None, :, None]

    def loss(backend: Backend, tokens, params):  # type: ignore[no-untyped-def]
        out = op.run(tokens, params, None, Segments(ids), backend=backend)[0]
        return jnp.sum(out.reshape(2, 70, -1) * upstream)

    gradients = {
        backend: jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)(backend, tokens, params)
        for backend in (Backend.REFERENCE, Backend.CPU)
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        *gradients.values(),
    )
    value = jax.jit(loss, static_argnums=0)
    for i in range(len(tokens)):
        direction = jnp.sin(jnp.arange(tokens[i].size)).reshape(tokens[i].shape)
        step = 3e-2 / jnp.linalg.norm(direction) * direction
        moved = [
            value(
                Backend.REFERENCE, (*tokens[:i], tokens[i] + sign * step, *tokens[i + 1 :]), params
            )
            for sign in (1, -1)
        ]
        slope = jnp.sum(gradients[Backend.REFERENCE][0][i] * step)
        np.testing.assert_allclose((moved[0] - moved[1]) / 2, slope, rtol=3e-2, atol=2e-3)


def test_the_gradient_of_a_served_step_is_the_references() -> None:
    op = OPS["delta"]
    tokens, states = op.tokens(6, dtype="float32"), normal("states", 3, *op.state_shape)
    batch = PagedBatch(
        jnp.asarray([3, 7], jnp.int32),
        jnp.asarray([[2], [0]], jnp.int32),
        jnp.asarray([0, 3, 5], jnp.int32),
    )

    def loss(backend: Backend, tokens, states):  # type: ignore[no-untyped-def]
        out, new = op.run(tokens, op.params(), states, batch, backend=backend)
        return jnp.sum(jnp.cos(out)) + jnp.sum(jnp.sin(new))

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        *(gradient(backend, tokens, states) for backend in (Backend.REFERENCE, Backend.CPU)),
    )


def test_inputs_that_do_not_match_are_refused() -> None:
    run = jitted("delta", Backend.REFERENCE)
    q, k, v, a, b = OPS["delta"].tokens(1, 4, dtype="float32")
    params = OPS["delta"].params()
    with pytest.raises(ValueError, match="N a multiple of K"):
        run((q, k, v[..., :3, :], a, b), params, None, Segments(None))
    with pytest.raises(ValueError, match="their states must be None"):
        run((q, k, v, a, b), params, jnp.zeros((2, 6, 12, 10)), Segments(None))
    server = Server("delta", 1, Backend.REFERENCE)
    server.states = server.states[..., :9]
    with pytest.raises(ValueError, match=r"must be float32\[slots, 6, 12, 10\], got float32"):
        server.step((q, k, v, a, b), {0: 4}, 4)
    x, b_, c, dt = OPS["grouped space"].tokens(1, 4, dtype="float32")
    with pytest.raises(ValueError, match="N a multiple of G"):
        jitted("grouped space", Backend.CPU)(
            (x[..., :3, :], b_, c, dt), OPS["grouped space"].params(), None, Segments(None)
        )
    with pytest.raises(ValueError, match="with K at least 2"):
        jitted("convolution", Backend.CPU)(
            OPS["convolution"].tokens(1, 4, dtype="float32"),
            (jnp.ones((1, 19)),),
            None,
            Segments(None),
        )
