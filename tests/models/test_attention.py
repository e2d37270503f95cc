"""`flaxen.attend` refuses what no backend could compute."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

import flaxen


@pytest.mark.parametrize("window", [0, -1, 1.5, "3"])
def test_a_window_is_a_whole_number_of_tokens(window: object) -> None:
    x = jnp.zeros((3, 1, 4))
    with pytest.raises(ValueError, match=r"window of flaxen\.attend must be a whole number"):
        flaxen.attend(x, x, x, window=window)  # type: ignore[arg-type]
