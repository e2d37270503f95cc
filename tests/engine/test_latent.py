"""A model that mixes latents with windows, chunks and sinks: served in every way = computed whole,
to the bit, and the bytes that latents take of the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.step import empty_cache
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models import attention_impls
from flaxen.models.cache import Full, Latent, Sliding
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.layers.attention import Attention
from flaxen.models.layers.block import LayerConfig
from flaxen.models.layers.latent_attention import LatentAttention
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.layers.norm import Norm
from flaxen.models.layout import page_specs
from flaxen.models.model import Model, logprobs
from flaxen.models.params import compute_params, is_spec
from flaxen.models.rope_config import RopeConfig
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.stored_pages.page_store import PageStore
from tests.engine.tiny import EOS_ID, ONE_SHAPE, make_engine, request, run, trace
from tests.scheduling.groups import groups

_ROPE = RopeConfig(interleaved=True)
_LATENT = LatentAttention(
    num_heads=4,
    q_rank=None,
    kv_rank=24,
    nope_dim=10,
    rope_dim=8,
    value_dim=12,
    rope=_ROPE,
)
_SLIDING = Attention(
    num_heads=4, num_kv_heads=2, head_dim=24, rope=_ROPE, window=24, has_sinks=True
)
_CHUNKED = replace(_SLIDING, window=None, chunk=40, softcap=3.0)
MODEL = decoder(
    DecoderConfig(
        vocab_size=300,
        model_dim=32,
        layers=tuple(
            LayerConfig(mixer=mixer, mlp=DenseMlp(mlp_dim=48), norm=Norm())
            for mixer in (_LATENT, _SLIDING, replace(_LATENT, q_rank=20), _CHUNKED)
        ),
        final_norm=Norm(),
        max_position=512,
    )
)
LENGTHS = [90, 5, 41, 33, 64]


def make_params() -> Any:
    rng = np.random.default_rng(0)

    def random(spec: Any) -> jax.Array:
        values = rng.standard_normal(spec.shape).astype(np.float32)
        is_norm = len(spec.shape) == 1
        return jnp.asarray(1 + 0.1 * values if is_norm else 2 * values / np.sqrt(spec.shape[-2]))

    return jax.tree.map(random, MODEL.param_specs, is_leaf=is_spec)


PARAMS = make_params()


def computed(model: Model) -> Any:
    """The parameters as the backend takes them."""
    return jax.tree.map(
        lambda spec, leaf: compute_params(spec, leaf, dtype=leaf.dtype, backend=model.backend),
        model.param_specs,
        PARAMS,
        is_leaf=is_spec,
    )


def engine(model: Model, num_pages: int, store: PageStore | None = None) -> Engine:
    config = replace(
        ONE_SHAPE,
        groups=groups(model.cache_specs, num_pages),
        compile_sizes=(64,),
    )
    executor = JaxExecutor(
        model,
        computed(model),
        config,
        eos_ids=(EOS_ID,),
        cache_dtype=jnp.dtype("float32"),
        bad_word_ids=lambda words: (),
    )
    return make_engine(config, executor=executor, store=store)


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, MODEL.vocab_size, n).tolist() for n in LENGTHS]


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_every_way_of_serving_has_the_same_bits(backend: Backend) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    model = MODEL.on(backend)
    requests = [request(f"r{i}", prompt, max_tokens=20) for i, prompt in enumerate(prompts())]
    roomy = engine(model, 200)
    alone = [trace(run(roomy, [each])[0]) for each in requests]
    assert [trace(each) for each in run(roomy, requests)] == alone  # batched, on cached prefixes
    assert roomy.stats().num_prefix_hits > 0
    few = engine(model, 12)
    assert [trace(each) for each in run(few, requests)] == alone  # batched, and in other chunks
    assert few.stats().num_preemptions > 0
    if backend is Backend.CPU:
        check_training(model, prompts()[0], alone[0])


def check_training(model: Model, prompt: list[int], served: list[Any]) -> None:
    """A whole causal forward, as training's, gives the served log-probabilities, to the bit."""
    tokens = [*prompt, *(token for token, *_ in served)]
    ids = jnp.asarray([tokens])
    positions = jnp.arange(len(tokens))[None]
    attend = attention_impls.causal(None, model.backend)
    params = computed(model)
    hidden, _ = model.forward(params, ids, positions, attend, (None,) * 4)
    found = np.asarray(logprobs(model.unembed(params, hidden), model.backend)[0])
    for place, (token, logprob, *_) in enumerate(served, len(prompt) - 1):
        assert found[place, token] == logprob


def test_latents_take_an_eighth_of_full_attentions_bytes() -> None:
    """The sizes of DeepSeek V2 Lite: 16 heads with keys of 192 numbers and values of 128."""
    latent = replace(
        _LATENT, num_heads=16, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128
    ).cache_spec()
    full = Full(num_kv_heads=16, head_dim=192, value_dim=128)
    dtype, num_pages = jnp.dtype("bfloat16"), 7
    measured = {}
    for spec in (latent, full):
        model = replace(MODEL, cache_specs=(spec,) * 2).on(Backend.CPU)
        own = groups(model.cache_specs, num_pages)
        pages = jax.eval_shape(lambda m=model, g=own: empty_cache(m, g, 16, dtype))
        measured[spec] = sum(each.size * each.dtype.itemsize for each in jax.tree.leaves(pages))
        counted = CacheSizes(
            specs=page_specs(model, 16, dtype),
            page_size=16,
            itemsize=2,
            chunk=64,
            max_num_seqs=1,
        ).least_bytes(16 * num_pages)
        assert measured[spec] == counted
    assert measured[latent] == 7 * 16 * 2 * 2 * (512 + 64)
    assert 8 * measured[latent] <= measured[full]


def test_each_layer_has_its_kind_of_cache() -> None:
    latent, sliding, other, chunked = MODEL.cache_specs
    assert latent == other == Latent(rank=24, rope_dim=8)
    assert sliding == Sliding(num_kv_heads=2, head_dim=24, window=24)
    assert chunked == Sliding(num_kv_heads=2, head_dim=24, window=40)
