"""Hidden states of padding are zeros unless a bias makes them something else; a model says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from flaxen.execution.step_sizes import biased_sizes, step_sizes
from flaxen.kernels.backend import Backend
from flaxen.models import attention_impls
from flaxen.models.decoder import decoder
from flaxen.models.model import Params
from flaxen.models.params import is_spec
from flaxen.models.rope_config import RopeConfig
from tools.decoders import uniform_decoder


def ones(specs: Params) -> Params:
    params: Params = jax.tree.map(lambda spec: jnp.ones(spec.shape), specs, is_leaf=is_spec)
    return params


@pytest.mark.parametrize(
    ("biases", "is_zero"),
    [((), True), (("wq", "wk", "wv"), True), (("wo",), False), (("w_down",), False)],
)
def test_a_model_says_whether_padding_is_zeros(biases: tuple[str, ...], is_zero: bool) -> None:
    config = uniform_decoder(
        vocab_size=11,
        model_dim=8,
        mlp_dim=8,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        norm_eps=1e-5,
        rope=RopeConfig(theta=1e4),
        biases=biases,
        max_position=16,
    )
    model = decoder(config)
    padding, places = jnp.full((1, 3), -1), jnp.zeros((1, 3), jnp.int32)
    attend = attention_impls.causal(places, Backend.REFERENCE)  # segment 0 is padding
    hidden, _ = model.forward(ones(model.param_specs), padding, places, attend, (None,))
    assert model.pads_with_zeros == is_zero
    assert bool((hidden == 0).all()) == is_zero


def test_steps_of_a_decoder_with_biases_are_at_most_twice_as_large() -> None:
    sizes = step_sizes(Backend.CPU, max_num_seqs=None, max_num_batched_tokens=None)
    assert biased_sizes(sizes).compiled == (1, 16, 32, 64, 128, 256, 512)
