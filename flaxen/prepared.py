"""Prepares the parts of an engine: the opened model on its mesh, the sizes of steps and of the KV
cache, and the weights.

Deliberately does not know: executors, engines, argv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.definitions.definition import Definition
from flaxen.definitions.opening import AnySource, OpenedModel, open_model
from flaxen.definitions.runner import choose_pooling
from flaxen.engine_args import (
    EngineArgs,
    cache_dtype,
    check_batch_invariance,
    check_eager,
    compute_dtype,
)
from flaxen.engine_sizes import engine_config, engine_sizes, longest_asked
from flaxen.execution.step_sizes import StepSizes
from flaxen.hub.pull import OnDownload
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend, invariant_backend
from flaxen.memory.cache_plan import CachePlan
from flaxen.memory.model_cache import plan_model_cache
from flaxen.models.layout import check_layout, lay_params
from flaxen.models.model import Model, Params
from flaxen.models.pipeline import pipelined
from flaxen.models.staging import stage_params
from flaxen.protocol import PoolingInfo
from flaxen.scheduling.config import EngineConfig, LoraLimits
from flaxen.sharding.mesh import make_mesh, replicas
from flaxen.sharding.placement import Placement
from flaxen.sharding.processes import Processes, check_alike, check_mesh, least_of_all, this_process
from flaxen.sharding.shape import MeshShape
from flaxen.text.given_template import with_template
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.form import Form
from flaxen.weights.huggingface.generation_config import sampling_defaults

OnProgress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An opened model, and all sizes of its engine."""

    args: EngineArgs
    path: Path | None  # of the model's file or directory; None for a model in memory or in code
    checkpoint: AnySource
    models: tuple[Model, ...]  # one for each data replica, on its part of the mesh
    form: Form  # of the weights
    cache_dtype: jnp.dtype  # of keys and values in the KV cache
    cache_plan: CachePlan
    config: EngineConfig
    default_sampling: Mapping[str, Any]
    pooling: PoolingInfo | None  # None: the model generates

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of compute."""
        return self.form.dtype

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights on one device, from their shapes."""
        return self.checkpoint.num_param_bytes(self.form)

    @property
    def backend(self) -> Backend:
        """The backend that computes."""
        return self.form.backend


def prepare(
    args: EngineArgs,
    report: OnProgress,
    lora: LoraLimits | None,
    definition: Definition | None,
) -> Prepared:
    """Opens the model and decides all sizes. Args and errors are those of `build`."""
    processes = this_process()
    backend = _backend(args)
    if backend is Backend.CPU:
        cpu_library.start()
    placements = _placements(args.mesh_shape, processes)
    path, checkpoint = _opened(args, report, definition)
    pooling = choose_pooling(checkpoint, args.runner)
    check_batch_invariance(checkpoint, backend)
    dtype = compute_dtype(args.dtype, backend, checkpoint)
    chosen = replace(checkpoint.model.for_context(args.max_model_len), generates=pooling is None)
    models = tuple(_on(chosen, backend, each) for each in placements)
    sizes = engine_sizes(args, checkpoint, models[0], pooling)
    form = Form(
        dtype=dtype, backend=backend, quantization=args.quantization, placement=placements[0]
    )
    cached = cache_dtype(args.kv_cache_dtype, dtype, models[0])
    args = replace(args, max_model_len=longest_asked(args, chosen, pooling))
    plan = _cache_plan(args, models, sizes, form, cached, checkpoint)
    if processes.count > 1:
        plan = _agreed(
            plan,
            f"{checkpoint.name} {models[0].param_specs} {backend} {args.mesh_shape} {dtype} "
            f"{cached} {args.quantization} {sizes} {args.page_size} {args.max_logprobs} "
            f"{args.logprobs_mode} {args.enforce_eager} {lora}",
        )
    return Prepared(
        args=args,
        path=path,
        checkpoint=checkpoint,
        models=models,
        form=form,
        cache_dtype=cached,
        cache_plan=plan,
        config=engine_config(args, sizes, plan, lora, whole_prompts=chosen.is_encoder),
        default_sampling=sampling_defaults(args.generation_config, path),
        pooling=pooling,
    )


def with_cache(
    prepared: Prepared, lora: LoraLimits | None, kv_cache_bytes: int, max_model_len: int | None
) -> Prepared:
    """The same with a KV cache of this size, and sequences of at most this length.

    Raises:
      ValueError: the cache is too small for them.
    """
    args = replace(prepared.args, kv_cache_bytes=kv_cache_bytes, max_model_len=max_model_len)
    checkpoint, models, form = prepared.checkpoint, prepared.models, prepared.form
    sizes = engine_sizes(args, checkpoint, models[0], prepared.pooling)
    plan = _cache_plan(args, models, sizes, form, prepared.cache_dtype, checkpoint)
    plan = replace(plan, pool_reason=prepared.cache_plan.pool_reason)
    whole_prompts = prepared.config.whole_prompts
    config = engine_config(args, sizes, plan, lora, whole_prompts=whole_prompts)
    return replace(prepared, cache_plan=plan, config=config)


def _opened(
    args: EngineArgs, report: OnProgress, definition: Definition | None
) -> tuple[Path | None, AnySource]:
    """The model, and its path; None for one in memory."""
    if definition is not None:
        return None, definition
    return open_named(args, lambda name, done, total: report("download", done, total))


def _cache_plan(
    args: EngineArgs,
    models: Sequence[Model],
    sizes: StepSizes,
    form: Form,
    cached: jnp.dtype,
    checkpoint: AnySource,
) -> CachePlan:
    """Plans the KV cache in the memory of this process."""
    return plan_model_cache(
        models[0],
        sizes,
        page_size=args.page_size,
        itemsize=form.dtype.itemsize,
        cache_dtype=cached,
        num_param_bytes=checkpoint.num_param_bytes(form),
        max_model_len=args.max_model_len,
        kv_cache_bytes=args.kv_cache_bytes,
        gpu_memory_utilization=args.gpu_memory_utilization,
        num_replicas=len(models),
        memory_bytes=args.memory_bytes,
        kv_offload_bytes=args.kv_offload_bytes,
    )


def _on(model: Model, backend: Backend, placement: Placement | None) -> Model:
    """The model as a backend computes it, on a mesh."""
    placed = model.on(backend, placement)
    if placement is None:
        return placed
    check_layout(placed.param_specs, placement)
    return pipelined(placed)


def _placements(shape: MeshShape, processes: Processes) -> list[Placement | None]:
    """The mesh of each data replica; None for one device, which is JAX's default one.

    Raises:
      ValueError: there are not as many devices, or the processes can't share the mesh.
    """
    check_mesh(shape, processes)
    if shape.data > 1 and processes.count > 1:
        raise ValueError(
            f"the mesh {shape} has data replicas, and they can't be on several processes, because "
            "process 0 would not see the results of the others: use tensor, or a server for each "
            "machine"
        )
    if shape.num_devices == 1:
        return [None]
    return [Placement(each) for each in replicas(make_mesh(shape))]


def _agreed(plan: CachePlan, what: str) -> CachePlan:
    """The plan of the process with the least memory, which all of them take."""
    check_alike("flaxen's or JAX's version", f"{version('flaxen')} {jax.__version__}")
    check_alike("the model, its number formats or the sizes of its engine", what)
    num_pages = [group.num_pages for group in plan.groups]
    thousandths = int(plan.num_whole * 1000)
    max_model_len, mib, thousandths, *agreed = least_of_all(
        [plan.max_model_len, plan.num_bytes >> 20, thousandths, *num_pages]
    )
    groups = tuple(
        replace(group, num_pages=pages) for group, pages in zip(plan.groups, agreed, strict=True)
    )
    return replace(
        plan,
        max_model_len=max_model_len,
        groups=groups,
        num_bytes=min(plan.num_bytes, mib + 1 << 20),
        num_whole=min(plan.num_whole, thousandths / 1000),
    )


def load(
    prepared: Prepared, on_weights: Callable[[int, int], None]
) -> tuple[Tokenizer, list[Params]]:
    """Loads the tokenizer, and the weights of each data replica, which are read once.

    The tokenizer is loaded beside the weights, whose reading releases the interpreter's lock.
    """
    checkpoint, form = prepared.checkpoint, prepared.form
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            checkpoint.load_params,
            form.dtype,
            on_weights,
            backend=form.backend,
            quantization=form.quantization,
            placement=form.placement,
        )
        tokenizer = with_template(checkpoint.make_tokenizer(), prepared.args.chat_template)
        params = loading.result()
    return tokenizer, placed(prepared, params)


def placed(prepared: Prepared, params: Params) -> list[Params]:
    """The parameters of each data replica, from those that were loaded."""
    return [_placed(params, prepared, each.placement) for each in prepared.models]


def _placed(params: Params, prepared: Prepared, placement: Placement | None) -> Params:
    """The parameters of a data replica: those of the first one, or a copy on its own devices."""
    if placement is None:
        return params
    if placement != prepared.form.placement:
        specs = prepared.checkpoint.model.param_specs
        params = lay_params(specs, params, placement)
    return stage_params(params, placement)


def _backend(args: EngineArgs) -> Backend:
    shape = args.mesh_shape
    backend = choose_backend(args.backend, args.device, num_devices=shape.num_devices)
    check_eager(args.enforce_eager, backend)
    return invariant_backend(backend, num_parts=shape.tensor) if args.batch_invariant else backend


def open_named(args: EngineArgs, on_download: OnDownload | None = None) -> OpenedModel:
    """Opens the model that the arguments name.

    Raises:
      ValueError: as in `build`.
    """
    return open_model(
        args.model,
        args.places,
        backend=_backend(args),
        impl=args.impl,
        definition=args.definition,
        on_download=on_download,
    )
