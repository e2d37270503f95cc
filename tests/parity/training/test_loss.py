"""A token's log-probability is its sequence's alone, and the same under jax.grad."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.kernels.backend import Backend
from flaxen.models.model import Params
from flaxen.training.loss import REMATS, logprobs_and_correct, next_token, token_logprobs
from tests.engine.tiny import PARAMS, dense_logprobs
from tests.training.tiny import BACKEND, MODEL, base_params, pack_batch, random_batch

PACKED = BACKEND.packs_weights


@jax.jit
def jitted_scores(params: Params, batch: Any) -> jax.Array:
    return token_logprobs(MODEL, params, batch)


def scores(params: Params, batch: Any) -> np.ndarray:
    return np.asarray(jitted_scores(params, batch))


def test_log_probabilities_are_those_of_a_dense_forward() -> None:
    ids = np.random.default_rng(0).integers(3, MODEL.vocab_size, 30).tolist()
    batch = pack_batch([[[5, 6, 7], ids]])
    found = scores(base_params(), batch)
    table = dense_logprobs(ids, base_params(), MODEL)
    expected = [table[position, ids[position + 1]] for position in range(29)]
    np.testing.assert_allclose(found[0, 3:32], expected, rtol=0, atol=2e-5)
    assert (found[0, [2, *range(32, 48)]] == 0).all()  # ends of segments, padding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_packed_segment_has_the_bits_that_it_has_alone(dtype: str) -> None:
    rng = np.random.default_rng(1)
    lengths = [[17, 3, 20], [1, 17], [9, 17, 3, 9]]
    rows = [[rng.integers(3, MODEL.vocab_size, n).tolist() for n in row] for row in lengths]
    params = base_params(dtype)
    together = scores(params, pack_batch(rows))
    for row, place in [(0, 0), (0, 1), (1, 1), (2, 1), (2, 2)]:  # two shapes to compile
        ids = rows[row][place]
        start = sum(lengths[row][:place])
        found = together[row, start : start + len(ids)]
        alone = scores(params, pack_batch([[ids]], len(ids)))[0]
        if PACKED:
            np.testing.assert_array_equal(found, alone)
        elif dtype == "float32":  # XLA's sums have another order in another shape
            np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("remat", REMATS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_are_the_same_under_a_gradient(dtype: str, remat: Any) -> None:
    batch = random_batch(2)
    params = base_params(dtype)

    def total(params: Params) -> tuple[jax.Array, jax.Array]:
        found = token_logprobs(MODEL, params, batch, remat=remat)
        return found.sum(), found

    (_, under), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    np.testing.assert_array_equal(np.asarray(under), scores(params, batch))
    assert all(np.isfinite(leaf.astype(np.float32)).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_are_the_same_under_a_gradient_through_xla(dtype: str) -> None:
    batch = random_batch(2, num_rows=1)
    model = MODEL.on(Backend.REFERENCE)
    params = base_params(dtype, backend=Backend.REFERENCE)

    def total(params: Params) -> tuple[jax.Array, jax.Array]:
        found = token_logprobs(model, params, batch)
        return found.sum(), found

    (_, under), _ = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
    _, alone = jax.jit(total)(params)
    np.testing.assert_array_equal(np.asarray(under), np.asarray(alone))


def test_rematerialisation_does_not_change_gradients() -> None:
    batch = random_batch(3)
    params = base_params()

    def gradients(remat: Any) -> Params:
        return jax.jit(jax.grad(lambda p: token_logprobs(MODEL, p, batch, remat=remat).sum()))(
            params
        )

    for one, other in zip(
        jax.tree.leaves(gradients("none")), jax.tree.leaves(gradients("layer")), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * float(jnp.abs(one).max()))


def test_rematerialisation_keeps_less() -> None:
    batch = random_batch(4)
    params = base_params()

    def kept(remat: Any) -> int:
        """Bytes that the backward pass is given, parameters left out."""

        def pull_back(params: Params) -> Any:
            return jax.vjp(lambda p: token_logprobs(MODEL, p, batch, remat=remat), params)[1]

        shapes = jax.tree.leaves(jax.eval_shape(pull_back, params))
        num_tokens = batch.tokens.size
        return sum(each.size for each in shapes if each.size % num_tokens == 0)

    assert 0 < kept("layer") < 0.5 * kept("none")


def test_more_tokens_than_a_chunk_are_scored_in_their_places() -> None:
    batch = random_batch(5, num_rows=16)  # 768 tokens, three chunks
    params = base_params()
    together = scores(params, batch)
    for row in (0, 7, 15):
        alone = scores(params, jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch))
        np.testing.assert_allclose(together[row], alone[0], rtol=0, atol=1e-4)


def test_the_likeliest_targets_are_told() -> None:
    params = base_params()
    ids = [7, 8, 9, 10]
    for _ in range(3):
        ids.append(int(dense_logprobs(ids, params, MODEL)[-1].argmax()))
    _, is_best = logprobs_and_correct(MODEL, params, pack_batch([[ids]]))
    assert is_best[0, 3:6].all()
    assert not is_best[0, 6:].any()


def test_the_loss_is_the_weighted_sum_and_the_count_its_weights() -> None:
    batch = random_batch(6)
    batch = batch._replace(loss_weights=batch.loss_weights * np.float32(0.5))
    params = base_params()
    objective = next_token(MODEL)
    losses, aux, _ = objective.losses(lambda shape: params, None, batch)
    expected = -(batch.loss_weights * scores(params, batch)).sum(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(objective.denominators(batch), batch.loss_weights.sum(axis=1))
    assert set(aux) == set(objective.aux) == {"accuracy"}


def test_an_unknown_rematerialisation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"remat 'all' is not supported: use none or layer"):
        token_logprobs(MODEL, PARAMS, random_batch(0), remat="all")  # type: ignore[arg-type]
