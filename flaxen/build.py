"""Builds an engine from arguments: wires the parts that `prepared` makes.

Deliberately does not know: argv, the environment, HTTP.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.definitions.definition import Definition
from flaxen.draft_model import make_draft_model, prepare_both
from flaxen.engine.core import Engine
from flaxen.engine.page_copying import compile_copies
from flaxen.engine.replicas import ReplicatedEngine
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.reading import reading_drafter
from flaxen.engine.stepped import SteppedEngine
from flaxen.engine_args import EngineArgs
from flaxen.execution.device_calls import DeviceCalls
from flaxen.execution.device_state import DeviceState
from flaxen.execution.jax_executor import JaxExecutor
from flaxen.execution.processes.connecting import following, leading
from flaxen.execution.processes.repeated import RepeatedCalls, follow
from flaxen.kv_events.config import read_events_config
from flaxen.kv_events.publisher import Publisher
from flaxen.kv_store import opened_store
from flaxen.memory.cache_plan import CachePlan
from flaxen.models.model import Model, Params
from flaxen.other_weights import read_weights
from flaxen.prepared import OnProgress, Prepared, load, open_named, prepare
from flaxen.protocol import ModelInfo
from flaxen.scheduling.adapters.store import AdapterStore
from flaxen.scheduling.config import LoraLimits
from flaxen.sharding.processes import this_process
from flaxen.sharding.shape import MeshShape
from flaxen.stored_pages.page_store import PageStore
from flaxen.text.bad_words import bad_word_ids
from flaxen.text.tokenizer import Tokenizer

__all__ = ["OnProgress", "Parts", "build", "follow_process_0", "open_named"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a running model; of data replicas, the first one's model and parameters."""

    engine: SteppedEngine
    tokenizer: Tokenizer
    model: Model
    params: Params
    dtype: jnp.dtype  # the dtype of compute
    cache_dtype: jnp.dtype  # of keys and values in the KV cache
    info: ModelInfo
    mesh: MeshShape  # the whole one, with its data replicas
    cache_plan: CachePlan  # the KV cache's size and the longest sequence, with the reasons
    family: str | None  # as `model_type` of config.json; None for a definition
    num_file_bytes: int | None  # of the weights in their files; None for a definition
    # Reads other weights of the model by their path, for `engine.set_params`; raises ValueError and
    # OSError as `other_weights`.
    read_weights: Callable[[str], Any]


def build(
    args: EngineArgs,
    on_progress: OnProgress | None = None,
    *,
    compiles_beside: bool = False,
    lora: LoraLimits | None = None,
    definition: Definition | None = None,
) -> Parts:
    """Loads the model and starts its engine.

    Where JAX was started with several processes, this is for process 0, and the others call
    `follow_process_0` with the same arguments.

    Args:
      args: the arguments.
      definition: a model in memory (args.model is then only its name); None reads files.
      on_progress: called with (stage, done, total).
      compiles_beside: whether an AsyncEngine will compile, beside the requests of a server, what
          the first ones do not need. If not, a step compiles its own program once it was padded to
          another for long enough, and `Engine.warm_up` compiles all before that.
      lora: how many adapters are served with the model; None for none.

    Raises:
      ValueError: a bad argument, no such model, or a checkpoint that can't be served.
      FileNotFoundError: the checkpoint has no tokenizer.
    """
    report = on_progress or (lambda stage, done, total: None)
    with _without_collection(), _calls_of_all_processes() as through:
        prepared, draft = prepare_both(prepare(args, report, lora, definition), report, lora)
        with opened_store(prepared) as store:
            return _parts(prepared, draft, store, report, compiles_beside, through)


def follow_process_0(
    args: EngineArgs,
    on_progress: OnProgress | None = None,
    *,
    lora: LoraLimits | None = None,
    definition: Definition | None = None,
) -> None:
    """Computes this process's part of process 0's engine, until that one ends.

    Args and errors are those of `build`. If process 0 is killed, this process ends at once.
    """
    report = on_progress or (lambda stage, done, total: None)
    with following(this_process()) as follower:
        with _without_collection():
            prepared = prepare(args, report, lora, definition)
            _, (params,) = load(prepared, functools.partial(report, "weights"))
            (model,) = prepared.models
            state = DeviceState(model, params, prepared.config, prepared.cache_dtype)
        follow(state, follower.next)
        state.finish()


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Tracing makes millions of long-lived objects: garbage collection would take a fifth of the
    time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _parts(
    prepared: Prepared,
    draft: Prepared | None,
    store: PageStore | None,
    report: OnProgress,
    compiles_beside: bool,
    through: Callable[[DeviceCalls], DeviceCalls],
) -> Parts:
    """Loads the weights of what was prepared, and wires the engine."""
    args, checkpoint, config = prepared.args, prepared.checkpoint, prepared.config
    tokenizer, params = load(prepared, functools.partial(report, "weights"))
    info = ModelInfo(
        name=args.served_model_name or checkpoint.name,
        vocab_size=prepared.models[0].vocab_size,
        max_model_len=config.max_model_len,
        max_logprobs=config.max_logprobs,
        logprobs_mode=config.logprobs_mode,
        eos_token_ids=tokenizer.eos_token_ids,
        created=int(time.time()),
        default_sampling=prepared.default_sampling,
        takes_predictions=args.speculation is not None and draft is None,
        pooling=prepared.pooling,
    )
    with device_errors(prepared.cache_plan):
        executors = [
            JaxExecutor(
                model,
                own,
                config,
                eos_ids=tokenizer.eos_token_ids,
                cache_dtype=prepared.cache_dtype,
                bad_word_ids=functools.partial(bad_word_ids, tokenizer),
                on_compiled=functools.partial(report, "compile"),
                compiles_beside=compiles_beside,
                through=through,
            )
            for model, own in zip(prepared.models, params, strict=True)
        ]
        if store is not None:
            for each in executors:
                compile_copies(each, len(config.groups))
    drafter = None
    if draft is not None:
        drafter = make_draft_model(
            draft, tokenizer, functools.partial(bad_word_ids, tokenizer), report
        )
    engine = _engine(prepared, executors, info, tokenizer, drafter, store)
    return Parts(
        engine=engine,
        tokenizer=tokenizer,
        model=prepared.models[0],
        params=params[0],
        dtype=prepared.dtype,
        cache_dtype=prepared.cache_dtype,
        info=info,
        mesh=args.mesh_shape,
        cache_plan=prepared.cache_plan,
        family=None if isinstance(checkpoint, Definition) else checkpoint.family.model_type,
        num_file_bytes=None if isinstance(checkpoint, Definition) else checkpoint.num_file_bytes,
        read_weights=functools.partial(_read_weights, prepared),
    )


@contextlib.contextmanager
def _calls_of_all_processes() -> Iterator[Callable[[DeviceCalls], DeviceCalls]]:
    """Makes process 0's device calls those of all processes, if there are others. They end too if
    the engine can't be built.
    """
    processes = this_process()
    if processes.count == 1:
        yield lambda own: own
        return
    if processes.index > 0:
        raise ValueError(
            f"this is process {processes.index} of {processes.count}, and process 0 has the "
            "engine: call flaxen.build.follow_process_0 here, with the same arguments"
        )
    with leading(processes) as leader:
        yield functools.partial(RepeatedCalls, send=leader.send)


def _read_weights(prepared: Prepared, model: str) -> Any:
    params = read_weights(prepared, model)
    return params if len(params) > 1 else params[0]


def _engine(
    prepared: Prepared,
    executors: list[JaxExecutor],
    info: ModelInfo,
    tokenizer: Tokenizer,
    draft_model: Drafter | None,
    store: PageStore | None,
) -> SteppedEngine:
    """One engine, or that of the data replicas together, of which each has its drafter."""
    seeds = random.Random(prepared.args.seed)
    speculation = prepared.args.speculation
    publishers = _publishers(prepared.args, len(executors))

    def make(rank: int, adapters: AdapterStore | None) -> Engine:
        return Engine(
            prepared.config,
            executors[rank],
            info,
            tokenizer,
            drafter=draft_model or reading_drafter(speculation),
            store=store,
            publish=publishers[rank].publish if publishers else None,
            adapters=adapters,
            seed=seeds,
        )

    first = make(0, None)
    others = [make(rank, first.adapters) for rank in range(1, len(executors))]
    engine = ReplicatedEngine([first, *others]) if others else first
    if store is not None:
        weakref.finalize(engine, store.close).atexit = False  # the store sees to that itself
    for each in publishers:
        weakref.finalize(engine, each.close)
    return engine


def _publishers(args: EngineArgs, num_replicas: int) -> list[Publisher]:
    """What publishes the KV events of each replica; none if the arguments ask for none."""
    config = None if args.kv_events_config is None else read_events_config(args.kv_events_config)
    if config is None or not config.is_on:
        return []
    if not args.enable_prefix_caching:
        raise ValueError(
            "kv_events_config publishes which prefixes are cached, and prefix caching is off: "
            "leave one out"
        )
    return [Publisher(config, rank) for rank in range(num_replicas)]


@contextlib.contextmanager
def device_errors(plan: CachePlan) -> Iterator[None]:
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
