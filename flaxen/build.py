"""Builds an engine from arguments: finds and loads the model, sizes the KV cache, wires the parts.

Deliberately does not know: argv, the environment, HTTP.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from flaxen.engine.cache.plan import CachePlan
from flaxen.engine.config import EngineConfig, LoraLimits
from flaxen.engine.core import Engine
from flaxen.engine.jax_executor import JaxExecutor
from flaxen.engine.model_cache import plan_model_cache
from flaxen.engine.step_sizes import StepSizes, step_sizes
from flaxen.engine_args import EngineArgs, check_quantization, compute_dtype
from flaxen.hub.pull import OnDownload
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend, why_no_kernels
from flaxen.models.layout import check_layout
from flaxen.models.model import Model, Params
from flaxen.models.pipeline import pipelined
from flaxen.models.staging import stage_params
from flaxen.protocol import ModelInfo
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import MeshShape
from flaxen.text.bad_words import bad_word_ids
from flaxen.text.given_template import with_template
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.checkpoint import Checkpoint
from flaxen.weights.definition import Definition
from flaxen.weights.huggingface.generation_config import sampling_defaults
from flaxen.weights.opening import OpenedModel, open_model
from flaxen.weights.params import Form

OnProgress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a running model."""

    engine: Engine
    executor: JaxExecutor
    tokenizer: Tokenizer
    model: Model
    params: Params
    dtype: jnp.dtype  # the dtype of compute and of the KV cache
    info: ModelInfo
    cache_plan: CachePlan  # the KV cache's size and the longest sequence, with the reasons
    family: str | None  # as `model_type` of config.json; None for a definition
    num_file_bytes: int | None  # of the weights in their files; None for a definition


def build(
    args: EngineArgs,
    on_progress: OnProgress | None = None,
    *,
    compile_all: bool = True,
    lora: LoraLimits | None = None,
    definition: Definition | None = None,
) -> Parts:
    """Loads the model and starts its engine.

    Args:
      args: the arguments.
      definition: a model in memory (args.model is then only its name); None reads files.
      on_progress: called with (stage, done, total).
      compile_all: False leaves the step shapes that a single request does not need to
          `Engine.warm_up`; until then, the first step that needs one waits for it. Through XLA,
          where each takes seconds, they are always left to it.
      lora: how many adapters are served with the model; None for none.

    Raises:
      ValueError: a bad argument, no such model, or a checkpoint that can't be served.
      FileNotFoundError: the checkpoint has no tokenizer.
    """
    # Tracing makes millions of long-lived objects: garbage collection would take a fifth of the
    # time.
    collects = gc.isenabled()
    gc.disable()
    try:
        report = on_progress or (lambda stage, done, total: None)
        return _build(args, report, compile_all, lora, definition)
    finally:
        if collects:
            gc.enable()


def _build(
    args: EngineArgs,
    report: OnProgress,
    compile_all: bool,
    lora: LoraLimits | None,
    definition: Definition | None,
) -> Parts:
    num_devices = args.mesh_shape.num_devices
    backend = choose_backend(args.backend, args.device, num_devices=num_devices)
    if backend is Backend.CPU:
        cpu_library.start()
    reason = why_no_kernels(args.backend, num_devices=num_devices)
    check_quantization(args.quantization, backend, reason)
    placement = _placement(args.mesh_shape)
    checkpoint: Checkpoint | Definition
    if definition is not None:
        path, checkpoint = None, definition
    else:
        path, checkpoint = open_named(
            args, lambda name, done, total: report("download", done, total)
        )
    defaults = sampling_defaults(args.generation_config, path)
    dtype = compute_dtype(args.dtype, backend, checkpoint)
    model = checkpoint.model.on(backend, placement)
    if placement is not None:
        check_layout(model.param_specs, placement)
        model = pipelined(model)
    sizes = step_sizes(
        backend,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        compile_sizes=args.compile_sizes,
    )
    if isinstance(checkpoint, Definition) and backend.pads_cheaply and not args.compile_sizes:
        sizes = _definition_sizes(sizes)
    form = Form(dtype=dtype, backend=backend, quantization=args.quantization, placement=placement)
    plan = plan_model_cache(
        model,
        sizes,
        page_size=args.page_size,
        itemsize=dtype.itemsize,
        num_param_bytes=checkpoint.num_param_bytes(form),
        max_model_len=args.max_model_len,
        kv_cache_bytes=args.kv_cache_bytes,
        gpu_memory_utilization=args.gpu_memory_utilization,
    )
    config = _engine_config(args, sizes, plan, lora)
    tokenizer, params = _load(checkpoint, args, form, functools.partial(report, "weights"))
    if placement is not None:
        params = stage_params(params, placement)
    info = ModelInfo(
        name=args.served_model_name or checkpoint.name,
        vocab_size=model.vocab_size,
        max_model_len=config.max_model_len,
        max_logprobs=config.max_logprobs,
        eos_token_ids=tokenizer.eos_token_ids,
        created=int(time.time()),
        default_sampling=defaults,
    )
    with _device_errors(plan):
        executor = JaxExecutor(
            model,
            params,
            config,
            eos_ids=tokenizer.eos_token_ids,
            cache_dtype=dtype,
            bad_word_ids=functools.partial(bad_word_ids, tokenizer),
            on_compiled=functools.partial(report, "compile"),
        )
    engine = Engine(config, executor, info, tokenizer, seed=args.seed)
    # Through XLA each shape takes seconds: it is compiled when a step first needs it.
    while compile_all and backend.pads_cheaply and engine.warm_up():
        pass
    return Parts(
        engine=engine,
        executor=executor,
        tokenizer=tokenizer,
        model=model,
        params=params,
        dtype=dtype,
        info=info,
        cache_plan=plan,
        family=None if isinstance(checkpoint, Definition) else checkpoint.family.model_type,
        num_file_bytes=None if isinstance(checkpoint, Definition) else checkpoint.num_file_bytes,
    )


@contextlib.contextmanager
def _device_errors(plan: CachePlan) -> Iterator[None]:
    """Says how an accelerator's memory was planned, if its first step fails there."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if plan.device is None:
            raise
        raise ValueError(
            f"the device could not make its first step: {error}. The KV cache has "
            f"{plan.num_bytes / 2**30:.1f} GiB there, beside weights of "
            f"{plan.device.param_bytes / 2**30:.1f} GiB: if memory ran out, lower "
            "gpu_memory_utilization or max_num_batched_tokens, or end other programs on the device"
        ) from error


def _load(
    checkpoint: Checkpoint | Definition,
    args: EngineArgs,
    form: Form,
    on_weights: Callable[[int, int], None],
) -> tuple[Tokenizer, Params]:
    """Loads the tokenizer beside the weights, whose reading releases the interpreter's lock."""
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            checkpoint.load_params,
            form.dtype,
            on_weights,
            backend=form.backend,
            quantization=form.quantization,
            placement=form.placement,
        )
        tokenizer = with_template(checkpoint.make_tokenizer(), args.chat_template)
        return tokenizer, loading.result()


def _placement(shape: MeshShape) -> Placement | None:
    """The mesh of an engine; None for one device, which is JAX's default one."""
    return None if shape.num_devices == 1 else Placement(make_mesh(shape))


def open_named(args: EngineArgs, on_download: OnDownload | None = None) -> OpenedModel:
    """Opens the model that the arguments name.

    Raises:
      ValueError: as in `build`.
    """
    return open_model(
        args.model,
        args.places,
        backend=choose_backend(args.backend, args.device, num_devices=args.mesh_shape.num_devices),
        impl=args.impl,
        definition=args.definition,
        on_download=on_download,
    )


def _engine_config(
    args: EngineArgs, sizes: StepSizes, plan: CachePlan, lora: LoraLimits | None
) -> EngineConfig:
    return EngineConfig(
        max_model_len=plan.max_model_len,
        groups=plan.groups,
        page_size=args.page_size,
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
        target_itl_ms=args.target_itl_ms,
        enable_prefix_caching=args.enable_prefix_caching,
        max_waiting=args.max_waiting,
        max_unread_bytes=args.max_unread_bytes,
        max_logprobs=args.max_logprobs,
        compile_sizes=sizes.compiled,
        lora=lora,
    )


def _definition_sizes(sizes: StepSizes) -> StepSizes:
    """The step sizes of a definition: never one token, because with one row XLA fuses the
    operations between kernels differently, and rounds differently. Padding is not multiplied here
    either.
    """
    largest = sizes.max_num_batched_tokens
    return replace(sizes, compiled=tuple(sorted({min(16, largest), largest})))
