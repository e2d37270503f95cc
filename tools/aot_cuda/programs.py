"""The programs that are compiled: kernels of attention and of quantized products, and whole steps.

Each program is lowered for devices that are not here, from shapes alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from flaxen.attention_kernels.paged_attention import empty_cache, paged_attention
from flaxen.execution.compiled_step import abstract_state, jit_step, lower_step, step_layout
from flaxen.execution.programs import Program
from flaxen.execution.shapes import Shape
from flaxen.expert_kernels.routing import RoutingSpec
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear import QuantizedLinear, linear
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models.config import DecoderConfig
from flaxen.models.decoder import decoder
from flaxen.models.layers.experts import Experts
from flaxen.models.layout import param_shardings
from flaxen.models.params import is_spec
from flaxen.scheduling.cache.groups import CacheGroup, group_layers
from flaxen.scheduling.config import EngineConfig
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import MeshShape
from tools.decoders import uniform_decoder

NUM_PAGES, PAGE_SIZE, MAX_LEN = 4096, 16, 8192


@dataclass(frozen=True, kw_only=True)
class AheadOfTime:
    """A program, and how it is lowered. Making one does nothing yet."""

    name: str
    lower: Callable[[], jax.stages.Lowered]


# Query heads, KV heads and head size of published models.
HEADS = {
    "Llama 8B": (32, 8, 128),
    "Llama 1B": (32, 8, 64),
    "SmolLM2 135M": (9, 3, 64),
    "Qwen2 7B": (28, 4, 128),
    "Phi-3 mini": (32, 32, 96),
    "StableLM 3B": (32, 32, 80),
    "Gemma 2B": (8, 1, 256),
}
# Tokens and sequences of a step: decode, and prompts beside decode.
STEPS = ((1, 1), (64, 64), (256, 256), (2048, 64))
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "window, softcap, sinks": {"window": 1024, "softcap": 30.0, "sinks": True},
}
DTYPES = (
    (jnp.bfloat16, jnp.bfloat16),
    (jnp.bfloat16, jnp.float8_e4m3fn),
    (jnp.float32, jnp.float32),
)
BACKENDS = (Backend.GPU, Backend.GPU_INVARIANT)
# The numbers' dtype, inputs that share a scale, the scales' dtype, whether there are mins.
QUANTIZED: dict[str, tuple[Any, int, Any, bool]] = {
    "int8": (jnp.int8, 4096, jnp.float32, False),
    "Q8_0": (jnp.int8, 32, jnp.float16, False),
    "Q4_0": (jnp.int4, 32, jnp.float16, False),
    "Q4_K": (jnp.int4, 32, jnp.float32, True),
}


def programs(devices: Sequence[jax.Device]) -> Iterator[AheadOfTime]:
    """All programs: on one device, and the steps also over the tensor axis of a mesh of two."""
    yield from _attention(devices[0])
    yield from _products(devices[0])
    mesh = Placement(make_mesh(MeshShape(tensor=2), devices))
    for backend, placement in (*((each, None) for each in BACKENDS), (Backend.GPU, mesh)):
        for shape in (Shape(num_tokens=16, num_seqs=16), Shape(num_tokens=512, num_seqs=64)):
            for model in MODELS:
                yield _serving_step(backend, devices[0], placement, shape, model)


def amd_programs() -> Iterator[AheadOfTime]:
    """Kernels, lowered for AMD's GPUs: from there on XLA's compiler needs ROCm's libraries."""
    yield from _attention(None)
    yield from _products(None)


def _attention(device: jax.Device | None) -> Iterator[AheadOfTime]:
    """Each kind of heads with each step; dtypes and options with one of them.

    Args:
      device: the one to compile for; None lowers for AMD's.
    """
    for backend in BACKENDS:
        for model, heads in HEADS.items():
            for step in STEPS:
                yield _attend(backend, device, model, heads, step, DTYPES[0], "")
        model = "Gemma 2B"  # the largest heads need the most shared memory
        for dtypes, options, step in itertools.product(DTYPES, OPTIONS, STEPS[1::2]):
            if (dtypes, options) != (DTYPES[0], ""):
                yield _attend(backend, device, model, HEADS[model], step, dtypes, options)


def _products(device: jax.Device | None) -> Iterator[AheadOfTime]:
    """Each kind of quantized weight, with one row, several and many."""
    for backend, kind, num_rows in itertools.product(BACKENDS, QUANTIZED, (1, 64, 2048)):
        yield _product(backend, device, kind, num_rows)


def _product(backend: Backend, device: jax.Device | None, kind: str, num_rows: int) -> AheadOfTime:
    """A layer of the size of Llama 8B's MLP, with a quantized weight."""
    (num_inputs, num_outputs), (dtype, group, scale_dtype, has_mins) = (
        (4096, 14336),
        QUANTIZED[kind],
    )
    per_group = _shape(num_inputs // group, num_outputs, dtype=scale_dtype)
    weight = QuantizedLinear(
        data=_shape(num_inputs, num_outputs, dtype=dtype),
        scales=per_group,
        mins=per_group if has_mins else None,
    )

    def lower() -> jax.stages.Lowered:
        run = jax.jit(functools.partial(linear, backend=backend))
        return _lowered(run, (_shape(num_rows, num_inputs, dtype=jnp.bfloat16), weight), device)

    return AheadOfTime(name=f"product {backend.value}: {kind}, {num_rows} rows", lower=lower)


def _attend(
    backend: Backend,
    device: jax.Device | None,
    model: str,
    heads: tuple[int, int, int],
    step: tuple[int, int],
    dtypes: tuple[Any, Any],
    options: str,
) -> AheadOfTime:
    (N, K, H), (T, S) = heads, step
    dtype, page_dtype = map(jnp.dtype, dtypes)
    given = dict(OPTIONS[options])
    has_sinks = given.pop("sinks", False)

    def attend(q: Any, k: Any, v: Any, cache: Any, batch: Any, sinks: Any) -> Any:
        return paged_attention(q, k, v, cache, batch, sinks=sinks, backend=backend, **given)

    def lower() -> jax.stages.Lowered:
        pages = jax.eval_shape(
            lambda: empty_cache(NUM_PAGES, PAGE_SIZE, K, H, page_dtype, backend=backend)
        )
        batch = PagedBatch(
            kv_lens=_shape(S, dtype=jnp.int32),  # type: ignore[arg-type]  # a shape for an array
            page_table=_shape(S, MAX_LEN // PAGE_SIZE, dtype=jnp.int32),  # type: ignore[arg-type]
            cu_q_lens=_shape(S + 1, dtype=jnp.int32),  # type: ignore[arg-type]
        )
        new = _shape(T, K, H, dtype=dtype)
        sinks = _shape(N, dtype=jnp.float32) if has_sinks else None
        args = (_shape(T, N, H, dtype=dtype), new, new, pages, batch, sinks)
        run = jax.jit(attend, donate_argnums=3)
        return _lowered(run, args, device)

    what = f"{page_dtype} pages" + (f", {options}" if options else "")
    name = f"attention {backend.value}: {model} [{N}, {K}, {H}], {T} tokens of {S}, {what}"
    return AheadOfTime(name=name, lower=lower)


_DENSE = uniform_decoder(
    vocab_size=32_000,
    model_dim=1024,
    mlp_dim=2816,
    num_layers=2,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    windows=(None, 1024),
    qk_norm=True,
    max_position=MAX_LEN,
)
_EXPERTS = Experts(num_experts=8, mlp_dim=1408, routing=RoutingSpec(k=2))
MODELS: dict[str, DecoderConfig] = {
    "": _DENSE,
    "experts, ": _DENSE.with_layers(lambda _, layer: replace(layer, mlp=_EXPERTS)),
}


def _serving_step(
    backend: Backend, device: jax.Device, placement: Placement | None, shape: Shape, kind: str
) -> AheadOfTime:
    """The engine's whole step: forward, unembedding, sampling."""

    def lower() -> jax.stages.Lowered:
        model = decoder(MODELS[kind]).on(backend, placement)
        config = EngineConfig(
            max_model_len=MAX_LEN,
            groups=tuple(
                CacheGroup(spec=spec, layers=layers, num_pages=NUM_PAGES)
                for spec, layers in group_layers(model.cache_specs).items()
            ),
            max_num_seqs=64,
        )
        dtype = jnp.dtype(jnp.bfloat16)
        params = jax.tree.map(
            lambda spec: _shape(*spec.shape, dtype=jnp.float32 if spec.is_wide else dtype),
            model.param_specs,
            is_leaf=is_spec,
        )
        if placement is not None:
            params = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                params,
                param_shardings(model.param_specs, placement),
            )
        state = abstract_state(model, config, params, dtype)
        if placement is None:
            state = _on(device, state)
        layout = step_layout(config)
        return lower_step(jit_step(model, config), layout, Program(shape=shape), state, None)

    where = "one device" if placement is None else str(placement.shape)
    name = f"step {backend.value}: {kind}{shape.num_tokens} tokens of {shape.num_seqs}, {where}"
    return AheadOfTime(name=name, lower=lower)


def _lowered(run: Any, args: tuple[Any, ...], device: jax.Device | None) -> jax.stages.Lowered:
    lowered: jax.stages.Lowered
    if device is None:
        lowered = run.trace(*args).lower(lowering_platforms=("rocm",))
    else:
        lowered = run.lower(*_on(device, args))
    return lowered


def _shape(*sizes: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _on(device: jax.Device, tree: Any) -> Any:
    """The shapes of a tree's arrays, on a device."""
    place = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    return jax.tree.map(lambda each: place(each.shape, each.dtype), tree)
