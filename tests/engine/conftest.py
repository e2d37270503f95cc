"""One compiled executor for all tests of this room: each costs seconds."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import pytest

from flaxen.execution.jax_executor import JaxExecutor
from flaxen.models.decoder import decoder
from tests.engine.fakes import POISON
from tests.engine.tiny import EOS_ID, MODEL_CONFIG, ONE_SHAPE, PARAMS


@pytest.fixture(scope="session")
def executor() -> JaxExecutor:
    """The tiny model, of which the embedding of the token POISON is NaN. Its sizes are ONE_SHAPE.

    Engines one after the other may use it, with as many pages or fewer.
    """
    embed = jnp.asarray(PARAMS["embed"])
    # Not tied: the NaN must not be among the logits too.
    params = {**PARAMS, "embed": embed.at[POISON].set(jnp.nan), "unembed": embed}
    return JaxExecutor(
        decoder(replace(MODEL_CONFIG, tied_embeddings=False)),
        params,
        ONE_SHAPE,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=lambda words: tuple(tuple(map(ord, word)) for word in words),
    )
