"""Plans an engine on hardware that is not here: its memory, its decode step and its prefill step.

The sizes are those that the engine itself would choose there, and the programs those that it would
run. Deliberately does not know how a plan is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention import check_page_size
from flaxen.engine_args import EngineArgs, cache_dtype
from flaxen.execution.compiled_step import (
    StepState,
    abstract_state,
    jit_step,
    lower_step,
    step_layout,
)
from flaxen.execution.programs import Program
from flaxen.execution.shapes import smallest_shape, step_shapes
from flaxen.execution.step_sizes import StepSizes, step_sizes
from flaxen.memory.cache_plan import CachePlan, plan_cache
from flaxen.memory.device_memory import DEFAULT_UTILIZATION, DeviceMemory, check_utilization
from flaxen.memory.step_memory import step_bytes
from flaxen.models.layout import check_layout, page_specs
from flaxen.models.model import Model, Params
from flaxen.planning.compiling import RefusedError, compile_for
from flaxen.planning.memory import Compiled, Memory
from flaxen.planning.params import device_bytes
from flaxen.planning.roofline import Times, Work, step_times
from flaxen.planning.step_work import Load, step_work
from flaxen.planning.targets import Hardware
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.scheduling.config import EngineConfig


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One step of an engine."""

    load: Load
    work: Work  # of one device
    times: Times
    tokens_per_s: float  # of all replicas together
    compiled: Compiled | None  # None: everything is from shapes


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """An engine, or as many of them as the mesh has data replicas."""

    num_replicas: int
    memory: Memory  # of one device
    max_model_len: int  # tokens
    max_num_seqs: int
    largest_batch: int = 0  # sequences of max_model_len that one replica holds at once
    longest_context: int = 0  # tokens of the longest sequence that fits
    num_cache_tokens: int = 0  # that the pages of one replica hold
    config: EngineConfig | None = None  # of the engine of one replica; None: nothing fits
    decode: StepPlan | None = None  # None: nothing fits
    prefill: StepPlan | None = None
    refusal: str | None = None  # what the compiler says against a step

    @property
    def fits(self) -> bool:
        """Whether the model can be served."""
        return self.memory.fits and self.refusal is None


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """The engine that is planned."""

    model: Model  # on the mesh of one replica
    params: Params  # their shapes
    config: EngineConfig
    state: StepState  # their shapes
    dtype: jnp.dtype
    cache_dtype: jnp.dtype
    hardware: Hardware
    num_replicas: int


def plan_serving(
    model: Model,
    params: Params,
    hardware: Hardware,
    asked: EngineArgs,
    dtype: jnp.dtype,
    *,
    num_replicas: int = 1,
    compiles: bool,
) -> ServingPlan:
    """Plans an engine.

    Args:
      model: the model, on the backend and the mesh of one replica; with devices to compile for, if
        `compiles`.
      params: the shapes of its parameters.
      hardware: where it would run.
      asked: the engine's arguments, of which its sizes matter here.
      dtype: of compute.
      num_replicas: engines side by side.
      compiles: whether to compile the steps.

    Raises:
      ValueError: the model can't be divided so, or a size is out of its range.
    """
    assert model.placement is not None
    check_layout(model.param_specs, model.placement)
    check_page_size(asked.page_size, backend=model.backend)
    cached = cache_dtype(asked.kv_cache_dtype, dtype, model)
    steps = step_sizes(
        model.backend,
        max_num_seqs=asked.max_num_seqs,
        max_num_batched_tokens=asked.max_num_batched_tokens,
    )
    sizes = _cache_sizes(model, asked.page_size, steps, cached)
    device = _device_memory(model, params, hardware, asked, steps, dtype.itemsize)
    plan = ServingPlan(
        num_replicas=num_replicas,
        memory=_first_memory(device, sizes.least_bytes(asked.max_model_len or 1), asked),
        max_model_len=asked.max_model_len or model.max_position,
        max_num_seqs=steps.max_num_seqs,
    )
    if not plan.memory.fits:
        return plan
    cache = plan_cache(
        sizes,
        model.max_position,
        asked_len=asked.max_model_len,
        asked_bytes=asked.kv_cache_bytes,
        device=device,
    )
    config = _engine_config(cache, steps, asked.page_size)
    engine = _Engine(
        model=model,
        params=params,
        config=config,
        state=abstract_state(model, config, params, cached),
        dtype=dtype,
        cache_dtype=cached,
        hardware=hardware,
        num_replicas=num_replicas,
    )
    plan = replace(
        plan,
        max_model_len=cache.max_model_len,
        largest_batch=int(cache.num_whole),
        longest_context=sizes.longest(cache.num_bytes, cache.model_len),
        num_cache_tokens=cache.num_tokens,
        config=config,
    )
    context = sizes.longest_at_once(cache.num_bytes, cache.max_model_len)
    return _with_steps(plan, engine, device.step_bytes, max(1, context), compiles)


def _cache_sizes(model: Model, page_size: int, steps: StepSizes, cached: jnp.dtype) -> CacheSizes:
    return CacheSizes(
        specs=page_specs(model, page_size, cached),
        page_size=page_size,
        itemsize=cached.itemsize,
        chunk=steps.max_num_batched_tokens,
        max_num_seqs=steps.max_num_seqs,
    )


def _device_memory(
    model: Model,
    params: Params,
    hardware: Hardware,
    asked: EngineArgs,
    steps: StepSizes,
    itemsize: int,
) -> DeviceMemory:
    """The memory of one device, as an engine there would divide it."""
    utilization = asked.gpu_memory_utilization or DEFAULT_UTILIZATION
    check_utilization(utilization)
    length = asked.max_model_len or model.max_position
    return DeviceMemory(
        limit_bytes=hardware.chip.hbm_bytes,
        utilization=utilization,
        param_bytes=device_bytes(params),
        step_bytes=step_bytes(model, steps, itemsize=itemsize, max_model_len=length),
    )


def _first_memory(device: DeviceMemory, least_pages: int, asked: EngineArgs) -> Memory:
    """The memory before there is a KV cache, by the estimate that the engine makes too."""
    free = asked.kv_cache_bytes
    if free is None:
        allowed = int(device.limit_bytes * device.utilization)
        free = allowed - device.param_bytes - device.step_bytes
    return Memory(
        hbm_bytes=device.limit_bytes,
        parts=(("weights", device.param_bytes), ("steps, estimated", device.step_bytes)),
        free_for_pages=free,
        least_pages=least_pages,
    )


def _engine_config(cache: CachePlan, steps: StepSizes, page_size: int) -> EngineConfig:
    return EngineConfig(
        max_model_len=cache.max_model_len,
        groups=cache.groups,
        page_size=page_size,
        max_num_seqs=steps.max_num_seqs,
        max_num_batched_tokens=steps.max_num_batched_tokens,
        compile_sizes=steps.compiled,
    )


def _with_steps(
    plan: ServingPlan, engine: _Engine, estimate: int, context: int, compiles: bool
) -> ServingPlan:
    """The plan with its two steps, and with the memory that they take."""
    config, shapes = engine.config, step_shapes(engine.config)
    num_seqs = config.max_num_seqs
    decode = Load(
        shape=smallest_shape(shapes, num_seqs, num_seqs),
        num_seqs=num_seqs,
        new_tokens=1,
        context=context,
    )
    # The longest prompt of one step, or as many of full length as fit into it.
    length = min(config.max_num_batched_tokens, config.max_model_len)
    prefill = Load(
        shape=shapes[-1],
        num_seqs=max(1, min(num_seqs, config.max_num_batched_tokens // length)),
        new_tokens=length,
        context=length,
    )
    steps: list[StepPlan] = []
    refusal = None
    for name, load in (("decode", decode), ("prefill", prefill)):
        try:
            steps.append(_step_plan(engine, load, name, compiles and refusal is None))
        except RefusedError as error:
            refusal = str(error)
            steps.append(_step_plan(engine, load, name, False))
    memory = _memory(plan.memory, engine, estimate, steps, len(shapes))
    return replace(plan, decode=steps[0], prefill=steps[1], memory=memory, refusal=refusal)


def _step_plan(engine: _Engine, load: Load, name: str, compiles: bool) -> StepPlan:
    work = step_work(
        engine.model,
        engine.params,
        load,
        engine.dtype.itemsize,
        cache_itemsize=engine.cache_dtype.itemsize,
    )
    compiled = None
    if compiles:
        program = Program(shape=load.shape)
        step, layout = jit_step(engine.model, engine.config), step_layout(engine.config)
        lowered = lower_step(step, layout, program, engine.state, None)
        assert engine.model.placement is not None
        num_devices = engine.model.placement.shape.num_devices
        compiled, collectives = compile_for(lowered, name, num_devices)
        work = replace(work, collectives=collectives)
    chip = engine.hardware.chip
    times = step_times(work, chip, chip.bf16_peak)
    num_tokens = load.num_seqs * load.new_tokens * engine.num_replicas
    return StepPlan(
        load=load,
        work=work,
        times=times,
        tokens_per_s=num_tokens / times.least_s,
        compiled=compiled,
    )


def _memory(
    first: Memory, engine: _Engine, estimate: int, steps: list[StepPlan], num_programs: int
) -> Memory:
    """The memory with pages, and with what the compiler says of the steps, or an estimate."""
    state = engine.state
    rows = device_bytes((state.rows.settings, state.rows.bias, state.tokens))
    parts = [
        ("weights", device_bytes(state.params)),
        ("KV pages", device_bytes(state.cache)),
        ("sampling state", rows),
    ]
    compiled = [step.compiled for step in steps if step.compiled is not None]
    if len(compiled) < len(steps):
        parts.append(("temporaries, estimated", max(0, estimate - rows)))
    else:
        largest = max(each.temporary_bytes + each.output_bytes for each in compiled)
        code = max(each.code_bytes for each in compiled)
        parts.append(("temporaries", largest))
        parts.append((f"code of {num_programs} programs", num_programs * code))
    return replace(first, parts=tuple(parts))
