"""The models that the check runs: shapes of Llama with random weights, made on the device.

Deliberately does not know what is measured with them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.engine.core import Engine
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import AUTO, choose_backend
from flaxen.kernels.linear.quantized import QuantizedLinear
from flaxen.models.cache import attention_only
from flaxen.models.decoder import decoder
from flaxen.models.model import Model, Params
from flaxen.models.param_spec import Matrix, ParamSpec
from flaxen.models.params import is_spec
from flaxen.models.rope_config import RopeConfig
from flaxen.protocol import ModelInfo
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.scheduling.config import EngineConfig
from tools.decoders import uniform_decoder

_ROPE = RopeConfig(theta=500_000.0)
# The published sizes of Llama 3.2 1B and 3.1 8B.
SHAPES = {
    "1b": uniform_decoder(
        vocab_size=128_256,
        model_dim=2048,
        mlp_dim=8192,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        rope=_ROPE,
        tied_embeddings=True,
        max_position=8192,
    ),
    "8b": uniform_decoder(
        vocab_size=128_256,
        model_dim=4096,
        mlp_dim=14_336,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        rope=_ROPE,
        max_position=8192,
    ),
    "tiny": uniform_decoder(
        vocab_size=512,
        model_dim=128,
        mlp_dim=256,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        tied_embeddings=True,
        max_position=512,
    ),
}
PAGE_SIZE = 16  # tokens


def find_backend(name: str) -> Backend:
    """The backend that is checked.

    Args:
      name: of a backend; auto is the device's own, and on a CPU that of a GPU: its kernels are
          interpreted there, so that the check itself can be tested.
    """
    if name != AUTO:
        return Backend(name)
    return Backend.GPU if jax.default_backend() == "cpu" else choose_backend()


def make_model(shape: str) -> Model:
    """The model of a shape's name, for no backend yet."""
    return decoder(SHAPES[shape])


def random_params(
    model: Model, dtype: str, *, scale: float = 0.02, seed: int = 0, quantized: bool = False
) -> Params:
    """Random weights, each made on the device: nothing is copied from the host.

    Args:
      model: the model.
      dtype: of the weights.
      scale: their standard deviation; norms are ones.
      seed: of the random numbers.
      quantized: whether matrices and tables have eight bits, with a scale for each output.
    """
    specs, tree = jax.tree.flatten(model.param_specs, is_leaf=is_spec)
    keys = jax.random.split(jax.random.key(seed), len(specs))
    leaves = [
        _quantized(spec.shape, spec.matrix, key, scale)
        if quantized and spec.matrix is not None
        else _random(spec, key, dtype, scale)
        for spec, key in zip(specs, keys, strict=True)
    ]
    structure: Any = tree  # JAX does not annotate its class
    return structure.unflatten(leaves)


def _random(spec: ParamSpec, key: jax.Array, dtype: str, scale: float) -> jax.Array:
    if spec.init == "ones":
        return jnp.ones(spec.shape, dtype)
    made: jax.Array = _normal(key, spec.shape, dtype, scale)
    return made


def _quantized(
    shape: tuple[int, ...], matrix: Matrix, key: jax.Array, scale: float
) -> QuantizedLinear:
    """Evenly distributed numbers of eight bits, of the same standard deviation."""
    sizes = [math.prod(shape[axis] for axis in axes) for axes in (matrix.inputs, matrix.outputs)]
    scales = jnp.full((1, sizes[1]), scale * math.sqrt(12) / 256, jnp.float32)
    return QuantizedLinear(data=_bits(key, (sizes[0], sizes[1])), scales=scales)


@functools.partial(jax.jit, static_argnums=1)
def _bits(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    return jax.lax.bitcast_convert_type(jax.random.bits(key, shape, jnp.uint8), jnp.int8)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: str, scale: float) -> jax.Array:
    found: jax.Array = (jax.random.normal(key, shape, jnp.float32) * scale).astype(dtype)
    return found


def make_engine(
    model: Model,
    params: Params,
    *,
    dtype: str,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    typical_len: int,
    compile_sizes: tuple[int, ...] = (),
) -> Engine:
    """An engine whose KV cache holds all sequences at a typical length, and one at full length.

    Args:
      model: the model, made for its backend.
      params: its parameters, in that backend's form.
      dtype: of compute and of the KV cache.
      max_num_seqs: as in EngineArgs.
      max_num_batched_tokens: as in EngineArgs.
      max_model_len: as in EngineArgs.
      typical_len: tokens.
      compile_sizes: as in EngineArgs.
    """
    sizes = CacheSizes(
        specs=attention_only(model.cache_specs),
        page_size=PAGE_SIZE,
        itemsize=jnp.dtype(dtype).itemsize,
        chunk=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
    )
    num_bytes = max(sizes.most_bytes(typical_len), sizes.least_bytes(max_model_len))
    config = EngineConfig(
        max_model_len=max_model_len,
        groups=sizes.divide(num_bytes, max_model_len),
        page_size=PAGE_SIZE,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        enable_prefix_caching=False,
        compile_sizes=compile_sizes,
    )
    executor = JaxExecutor(
        model,
        params,
        config,
        eos_ids=(),
        cache_dtype=jnp.dtype(dtype),
        bad_word_ids=lambda words: (),
    )
    info = ModelInfo(
        name="random",
        vocab_size=model.vocab_size,
        max_model_len=max_model_len,
        max_logprobs=config.max_logprobs,
        eos_token_ids=(),
        created=0,
    )
    return Engine(config, executor, info, None)


def num_products(model: Model) -> tuple[int, int]:
    """The matrix elements with which every token, and a sampled one besides, is multiplied."""
    specs = jax.tree.leaves(model.param_specs, is_leaf=is_spec)
    layers = sum(math.prod(spec.shape) for spec in specs if spec.role == "matrix")
    tables = [spec for spec in specs if spec.role == "table" and spec.is_multiplied]
    return layers, sum(math.prod(spec.shape) for spec in tables)
