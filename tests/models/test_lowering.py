"""Layers with states and latents lower for GPUs and TPUs, in a served step and in training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from flaxen.execution.step import empty_cache
from flaxen.kernels.backend import Backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.latent_attention import LatentAttention
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.model import Params
from flaxen.models.rope_config import RopeConfig
from tests.models.mixers import CONV, DELTA, MAMBA, NORM, params_of
from tests.scheduling.groups import groups

LATENT = LatentAttention(
    num_heads=2, q_rank=None, kv_rank=16, nope_dim=8, rope_dim=4, value_dim=8, rope=RopeConfig()
)
MODEL = decoder(
    DecoderConfig(
        vocab_size=50,
        model_dim=24,
        layers=tuple(
            LayerConfig(mixer=mixer, mlp=DenseMlp(mlp_dim=20), norm=NORM)
            for mixer in (CONV, DELTA, MAMBA, LATENT)
        ),
        final_norm=NORM,
        max_position=64,
    )
)
TOKENS = jnp.arange(8, dtype=jnp.int32)


@pytest.mark.parametrize(
    ("backend", "platform"), [(Backend.GPU, "cuda"), (Backend.TPU, "tpu")], ids=["gpu", "tpu"]
)
def test_a_step_and_a_gradient_lower(backend: Backend, platform: str) -> None:
    model = replace(MODEL, backend=backend)
    own = groups(model.cache_specs, 2)
    cache = empty_cache(model, own, 16, jnp.dtype("float32"))
    batch = PagedBatch(
        jnp.asarray([8], jnp.int32), jnp.zeros((1, 1), jnp.int32), jnp.asarray([0, 8], jnp.int32)
    )

    def serve(params: Params, cache: Any) -> Any:
        attend = attention_impls.paged((batch,) * len(own), backend)
        hidden, cache = model.forward(params, TOKENS, TOKENS, attend, cache)
        return model.unembed(params, hidden), cache

    def loss(params: Params) -> jax.Array:
        attend = attention_impls.causal(jnp.ones((1, 8), jnp.int32), backend)
        nothing = (None,) * len(model.cache_specs)
        hidden, _ = model.forward(params, TOKENS[None], TOKENS[None], attend, nothing)
        return jnp.sum(model.unembed(params, hidden))

    params = params_of(MODEL)
    for compiled, arguments in ((serve, (params, cache)), (jax.grad(loss), (params,))):
        lowered = jax.jit(compiled).trace(*arguments).lower(lowering_platforms=(platform,))
        assert "stablehlo.while" in lowered.as_text()  # the loop over tokens
