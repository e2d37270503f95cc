"""Mixers that keep a state: their parameters start so that each head forgets at its own speed, and
sizes that they can't have are refused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.models.layers.gated_delta import GatedDelta
from flaxen.models.layers.mamba2 import Mamba2
from flaxen.models.layers.short_conv import ShortConv
from flaxen.training.full import initial_params
from tests.models.mixers import MODEL


def test_a_recurrence_starts_with_a_speed_of_its_own_for_each_head() -> None:
    layers = initial_params(MODEL, 0)["layers"]
    for number in (1, 3):
        decay, steps = jnp.exp(layers[number]["a_log"]), jax.nn.softplus(layers[number]["dt_bias"])
        np.testing.assert_allclose(decay, [1, 6, 11, 16], rtol=1e-5)
        np.testing.assert_allclose(steps[np.array([0, 3])], [0.001, 0.1], rtol=1e-3)
        assert (np.diff(steps) > 0).all()
    taps = np.asarray(layers[1]["conv_weight"])
    assert np.abs(taps).max() <= 0.5
    assert np.abs(taps).std() > 0.1


def test_sizes_that_a_mixer_can_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 channel and 2 taps, got 4 and 1"):
        ShortConv(num_channels=4, num_taps=1)
    sizes = {"key_dim": 4, "value_dim": 4, "num_taps": 4, "norm_eps": 1e-5}
    with pytest.raises(ValueError, match=r"num_value_heads \(3\) must be a multiple"):
        GatedDelta(num_key_heads=2, num_value_heads=3, **sizes)
    with pytest.raises(ValueError, match="needs sizes of at least 1 and 2 taps"):
        GatedDelta(num_key_heads=0, num_value_heads=3, **sizes)
    with pytest.raises(ValueError, match=r"num_heads \(3\) must be a multiple of num_groups \(2\)"):
        Mamba2(num_heads=3, head_dim=4, num_groups=2, state_dim=4, num_taps=4, norm_eps=1e-5)
    with pytest.raises(ValueError, match="Mamba-2 needs sizes of at least 1"):
        Mamba2(num_heads=2, head_dim=4, num_groups=2, state_dim=0, num_taps=4, norm_eps=1e-5)
