"""The jitted functions of a step, and the arguments that they are lowered with.

An executor runs them; `planning` compiles the same for devices that are not here. Deliberately does
not know: parameters' values, dispatching, when a program is compiled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.execution.programs import Program
from flaxen.execution.rows import Rows, empty_rows
from flaxen.execution.step import empty_cache, page_shardings, run_forward, run_sample, run_step
from flaxen.execution.step_input import StepLayout
from flaxen.execution.step_needs import NO_NEEDS
from flaxen.execution.step_options import Lora, StepOptions
from flaxen.kernels.awaited_mask import NO_TICKET
from flaxen.kernels.compiling import compiler_options
from flaxen.models.model import Model, Params
from flaxen.scheduling.config import EngineConfig


class StepState(NamedTuple):
    """The arrays that a step reads and updates on the device, or their shapes."""

    params: Params  # as the step takes them
    rows: Rows  # without tokens
    tokens: jax.Array  # [R, max length] int32, of the rows; apart, because a step donates them
    cache: tuple[Any, ...]  # the pages of each layer


def step_layout(config: EngineConfig) -> StepLayout:
    """The layout of the host's input for a step."""
    return StepLayout(
        num_rows=config.max_num_seqs,
        pages_per_seq=tuple(
            -(-config.max_model_len // config.page_size) if group.keeps_tokens else 1
            for group in config.groups
        ),
        num_spec_tokens=config.num_spec_tokens,
        max_sampled=config.max_sampled,
    )


def num_top_tokens(model: Model, config: EngineConfig) -> int:
    """The number of likeliest tokens that a step reports."""
    return min(config.max_logprobs, model.vocab_size)


def jit_step(model: Model, config: EngineConfig) -> Any:
    """`run_step` of a model and an engine's sizes as one jit, on every backend (decision 0210).

    It takes the number of tokens, a StepState's fields, the packed step, its needs and options; the
    tokens and the cache are donated.
    """
    whole = None if model.placement is None else model.placement.replicated
    return jax.jit(
        functools.partial(
            run_step,
            model,
            step_layout(config),
            num_top_tokens(model, config),
            mode=config.logprobs_mode,
        ),
        static_argnums=0,
        donate_argnums=(3, 4),
        out_shardings=(whole, page_shardings(model), whole, whole, whole),
        compiler_options=compiler_options(model.backend, enforce_eager=config.enforce_eager),
    )


def jit_forward(model: Model, config: EngineConfig) -> Any:
    """`run_forward` as a jit, for steps with grammars where a step can't await their masks.

    It takes the number of tokens, the parameters, the rows' tokens, the cache, the packed step and
    its options; the tokens and the cache are donated.
    """
    whole = None if model.placement is None else model.placement.replicated
    return jax.jit(
        functools.partial(run_forward, model, step_layout(config)),
        static_argnums=0,
        donate_argnums=(2, 3),
        out_shardings=(whole, page_shardings(model), whole, whole, whole),
        compiler_options=compiler_options(model.backend, enforce_eager=config.enforce_eager),
    )


def jit_sample(model: Model, config: EngineConfig) -> Any:
    """`run_sample` as a jit. It takes the parameters, the rows and their tokens, which are donated,
    the packed step, its last hidden states, needs and bitmasks.
    """
    whole = None if model.placement is None else model.placement.replicated
    return jax.jit(
        functools.partial(
            run_sample,
            model,
            step_layout(config),
            num_top_tokens(model, config),
            mode=config.logprobs_mode,
        ),
        donate_argnums=2,
        out_shardings=whole,
        compiler_options=compiler_options(model.backend, enforce_eager=config.enforce_eager),
    )


def jit_empty_state(
    model: Model, config: EngineConfig, cache_dtype: jnp.dtype
) -> Callable[[], tuple[tuple[Any, ...], Rows]]:
    """A jit without arguments that makes an empty KV cache and empty rows."""

    def make() -> tuple[tuple[Any, ...], Rows]:
        cache = empty_cache(model, config.groups, config.page_size, cache_dtype)
        return cache, empty_rows(config.max_num_seqs, config.max_model_len, model.vocab_size)

    whole = None if model.placement is None else model.placement.replicated
    return jax.jit(make, out_shardings=(page_shardings(model), whole))


def abstract_state(
    model: Model, config: EngineConfig, params: Params, cache_dtype: jnp.dtype
) -> StepState:
    """The shapes, dtypes and places of a step's state, none of which is made.

    Args:
      model: the model.
      config: the engine's sizes.
      params: the shapes and places of the parameters.
      cache_dtype: of the KV cache.
    """
    cache, rows = jax.eval_shape(jit_empty_state(model, config, cache_dtype))
    shardings = page_shardings(model)
    if model.placement is not None and shardings is not None:
        cache = tuple(placed_shapes(*each) for each in zip(cache, shardings, strict=True))
        rows = placed_shapes(rows, model.placement.replicated)
    return StepState(params, without_tokens(rows), rows.tokens, cache)


def placed_shapes(tree: Any, sharding: Any) -> Any:
    """The shapes of a tree's arrays, all with one place."""
    return jax.tree.map(
        lambda each: jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=sharding), tree
    )


def without_tokens(rows: Rows) -> Rows:
    """The rows as a step takes them: it gets their tokens apart, to donate them."""
    return rows._replace(tokens=np.zeros((0, 0), np.int32))  # type: ignore[arg-type]  # NumPy's


def lower_step(
    step: Any, layout: StepLayout, program: Program, state: StepState, lora: Lora | None
) -> jax.stages.Lowered:
    """Lowers the step for one program.

    Args:
      step: what `jit_step` made.
      layout: that of the same engine.
      program: its shape, and whether it has adapters, and a grammar's mask to await.
      state: shapes are enough, with the places where the arrays will be.
      lora: the stack of adapters and their scales, or their shapes; for programs with adapters.
    """
    lowered: jax.stages.Lowered = step.lower(
        program.shape.num_tokens,
        *state,
        layout.pack([], program.shape.num_seqs),
        NO_NEEDS,
        StepOptions(
            lora if program.has_adapters else None,
            mask_ticket=NO_TICKET if program.has_grammar else None,
        ),
    )
    return lowered


def lower_parts(
    forward: Any,
    sample: Any,
    layout: StepLayout,
    program: Program,
    state: StepState,
    lora: Lora | None,
) -> tuple[jax.stages.Lowered, jax.stages.Lowered]:
    """Lowers the two parts of a step with grammars, `jit_forward` and `jit_sample`.

    Args:
      forward, sample: the two jits.
      layout, program, state, lora: as in `lower_step`.
    """
    packed = layout.pack([], program.shape.num_seqs)
    first: jax.stages.Lowered = forward.lower(
        program.shape.num_tokens,
        state.params,
        state.tokens,
        state.cache,
        packed,
        StepOptions(lora if program.has_adapters else None),
    )
    last = first.out_info[2]
    num_words = state.rows.bias.allowed.shape[-1]
    second: jax.stages.Lowered = sample.lower(
        state.params,
        state.rows,
        state.tokens,
        packed,
        jax.ShapeDtypeStruct(last.shape, last.dtype, sharding=last.sharding),
        NO_NEEDS,
        np.zeros((last.shape[0], num_words), np.uint32),
    )
    return first, second
