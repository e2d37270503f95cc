"""Runs steps through JAX. Every jit, donation and transfer of the engine is here, but for those of
the step itself (compiled_step) and of the adapters (adapter_stack).

Deliberately does not know: when steps are planned, what ends a sequence, texts.
"""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.engine.adapters.stack import AdapterStack
from flaxen.engine.compiled_step import (
    StepState,
    jit_empty_state,
    jit_step,
    lower_step,
    num_top_tokens,
    step_layout,
    without_tokens,
)
from flaxen.engine.config import EngineConfig
from flaxen.engine.executor import Executor, StepResult
from flaxen.engine.model_inputs import check_inputs
from flaxen.engine.params import check_same
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.programs import Program, Programs, plan_programs
from flaxen.engine.results import step_result, to_host, token_logprobs
from flaxen.engine.rows import (
    RowSettings,
    load_bias,
    load_row,
    row_bias,
    row_settings,
    with_seed,
)
from flaxen.engine.sampling import BatchNeeds, Sampled
from flaxen.engine.sequence import Sequence
from flaxen.engine.shapes import Shape, step_shapes
from flaxen.engine.step import prompt_logprobs, shapes_of
from flaxen.engine.step_needs import NO_NEEDS, batch_needs, exact_program, log_wait
from flaxen.engine.step_options import StepOptions, grammar_bitmask, prompt_embeds
from flaxen.kernels.linear.bound import bind
from flaxen.models.model import Model, Params
from flaxen.protocol import AdapterWeights, Request, SamplingParams, TokenLogprobs
from flaxen.weights.adapters.adapter import Adapter

_LOGPROB_ROWS = 64  # prompt tokens with log-probabilities in one call


@dataclass(kw_only=True, slots=True)
class _Handle:
    sampled: Sampled
    hidden: jax.Array  # [T, D]
    starts: list[int]  # of each item's tokens in the step
    wants_logprobs: bool


class JaxExecutor(Executor):
    """Holds the parameters, the KV pool and the rows.

    When it is made, it compiles the first programs of `plan_programs`, and runs each once. The
    others are compiled by `warm_up`, or when a step first needs them.

    Args:
      model: the model; its backend runs the steps.
      params: its parameters, on the device and in the backend's form; shared, never changed or
        donated.
      config: the sizes.
      eos_ids: end-of-sequence ids.
      cache_dtype: of the KV pool.
      bad_word_ids: gives the token sequences of a request's bad words.
      on_compiled: called with (programs ready, programs planned) after each.
    """

    _tokens: Any = None  # those of the rows; None if `__init__` failed before it made them

    def __init__(
        self,
        model: Model,
        params: Params,
        config: EngineConfig,
        *,
        eos_ids: tuple[int, ...],
        cache_dtype: jnp.dtype,
        bad_word_ids: Callable[[tuple[str, ...]], tuple[tuple[int, ...], ...]],
        on_compiled: Callable[[int, int], None] | None = None,
    ) -> None:
        self.vocab_size = model.vocab_size
        self._model, self._params, self._config = model, params, config
        # As the compiled step takes them. Nobody donates them as long as we hold them.
        self._step_params = bind(params) if model.backend.packs_weights else params
        self._eos_ids, self._bad_word_ids = eos_ids, bad_word_ids
        self._shapes = step_shapes(config)
        self._layout = step_layout(config)
        # What all devices of a mesh have alike; without a mesh there is nothing to say.
        whole = None if model.placement is None else model.placement.replicated
        self._step = jit_step(model, config)
        self._empty_state = jit_empty_state(model, config, cache_dtype)
        self._load_row = jax.jit(load_row, donate_argnums=(0, 1), out_shardings=whole)
        self._load_bias = jax.jit(load_bias, donate_argnums=0, out_shardings=whole)
        self._prompt_logprobs = jax.jit(
            functools.partial(prompt_logprobs, model, num_top_tokens(model, config)),
            out_shardings=whole,
        )
        self._final_norm = jax.jit(model.final_norm, out_shardings=whole)
        self._adapters = AdapterStack(model, config.lora)
        self._at_exit = functools.partial(_finish_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        self._reset_state()
        # Taken once: a thread compiles from them while steps and `reset` replace the arrays.
        self._abstract_state: StepState = shapes_of(
            StepState(self._step_params, self._rows, self._tokens, self._cache)
        )
        self._abstract_adapters = shapes_of(self._adapters.arrays)

        adapted, pads = config.lora is not None, model.backend.pads_cheaply
        first, later = plan_programs(self._shapes, has_adapters=adapted, may_pad=pads)
        self._programs = Programs((*first, *later), may_pad=pads, on_compiled=on_compiled)
        self._programs.compile_several(len(first), self._compile)
        self._run_once(first)

    def warm_up(self) -> bool:
        return self._programs.compile_next(self._compile)

    def _compile(self, program: Program) -> None:
        """Compiles a program without running it. A call of `_step` finds it among JAX's own."""
        state, lora = self._abstract_state, self._abstract_adapters
        lower_step(self._step, self._layout, program, state, lora).compile()

    def _run_once(self, programs: Iterable[Program]) -> None:
        """Does what only a first request would do otherwise: no step is slower than the next."""
        self._load_settings(0, with_seed(row_settings(SamplingParams(), 1, (), ()), 0), [])
        self._adapters.compile_load()
        for program in programs:
            options = StepOptions(self._adapters.arrays if program.has_adapters else None)
            self._run(program.shape, [], NO_NEEDS, options)

    def __del__(self) -> None:
        if self._tokens is not None:
            atexit.unregister(self._at_exit)
            self._finish()

    def _finish(self) -> None:
        """Waits for the last step: it may read parameters that XLA does not hold."""
        if self._tokens is not None and not self._tokens.is_deleted():
            # Not block_until_ready: jaxlib keeps its caller's code in a traceback, and one that
            # __del__ called was seen to be freed twice, which ended the process.
            np.asarray(self._tokens)

    def reset(self) -> None:
        self._adapters.reset()
        self._reset_state()

    def _reset_state(self) -> None:
        self._cache: tuple[Any, ...] = ()  # else there would be two for a moment
        # One call, not one an array: the memory is filled while the host goes on to compile.
        self._cache, rows = self._empty_state()
        self._tokens = rows.tokens
        self._rows = without_tokens(rows)

    def row_settings(self, request: Request) -> RowSettings:
        sampling = request.sampling
        bad_words = self._bad_word_ids(sampling.bad_words)
        return row_settings(sampling, len(request.prompt_token_ids), bad_words, self._eos_ids)

    def check_inputs(self, request: Request) -> None:
        check_inputs(self._model, request)

    def load(self, sequence: Sequence, row: int) -> None:
        new = with_seed(sequence.row_settings, sequence.seed)
        self._load_settings(row, new, sequence.tokens)
        if new.has_bias:
            bias = row_bias(sequence.sampling, self.vocab_size)
            loaded = self._load_bias(self._rows.bias, np.int32(row), bias)
            self._rows = self._rows._replace(bias=loaded)

    def _load_settings(self, row: int, settings: RowSettings, tokens: list[int]) -> None:
        known = np.zeros(self._config.max_model_len, np.int32)
        known[: len(tokens)] = tokens
        loaded, self._tokens = self._load_row(
            self._rows.settings, self._tokens, np.int32(row), settings, known
        )
        self._rows = self._rows._replace(settings=loaded)

    def check_adapter(self, adapter: AdapterWeights) -> None:
        if not isinstance(adapter, Adapter):
            raise ValueError(
                f"an adapter must be a flaxen.weights.adapters.adapter.Adapter, got a "
                f"{type(adapter).__name__}"
            )
        self._adapters.check(adapter)

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        assert isinstance(adapter, Adapter)
        self._adapters.load(slot, adapter)

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        rank = self._adapters.serve_stack(stack, scales)
        self._programs.forget()
        return rank

    def set_params(self, params: Any) -> None:
        check_same(self._params, params)
        self._finish()
        # Not bound: who trains them donates them, and XLA must know which step still reads them.
        self._params = self._step_params = params
        self._programs.forget()

    def dispatch(self, plan: StepPlan) -> _Handle:
        ends = accumulate((item.num_tokens for item in plan.items), initial=0)
        needs = batch_needs(plan.items)
        program = self._programs.choose(exact_program(self._shapes, plan.items))
        shape = program.shape
        options = StepOptions(
            lora=self._adapters.arrays if program.has_adapters else None,
            grammar_bitmask=grammar_bitmask(plan.items, shape.num_seqs, self.vocab_size),
            prompt_embeds=prompt_embeds(plan.items, shape.num_tokens, self._model.embed_dim),
        )
        run = functools.partial(self._run, shape, plan.items, needs, options)
        if self._programs.is_ready(program):
            sampled, hidden = run()
        else:
            started_s = time.perf_counter()
            sampled, hidden = self._programs.compile(program, run)
            log_wait(program, plan.items, time.perf_counter() - started_s)
        return _Handle(
            sampled=sampled, hidden=hidden, starts=list(ends), wants_logprobs=bool(needs.logprobs)
        )

    def is_done(self, handle: _Handle) -> bool:
        return bool(handle.sampled.tokens.is_ready())  # type: ignore[attr-defined]  # not in its stub

    def fetch(self, plan: StepPlan, handle: _Handle) -> StepResult:
        return step_result(plan.items, handle.sampled, has_logprobs=handle.wants_logprobs)

    def prompt_logprobs(
        self, plan: StepPlan, handle: _Handle, item: Scheduled, targets: list[int], num_top: int
    ) -> list[TokenLogprobs]:
        start = handle.starts[plan.items.index(item)]
        hidden = np.asarray(handle.hidden)[start : start + len(targets)]
        found = []
        for i in range(0, len(targets), _LOGPROB_ROWS):
            chunk = np.zeros((_LOGPROB_ROWS, hidden.shape[1]), hidden.dtype)
            ids = np.zeros(_LOGPROB_ROWS, np.int32)
            num = len(targets[i : i + _LOGPROB_ROWS])
            chunk[:num], ids[:num] = hidden[i : i + num], targets[i : i + num]
            logprobs = to_host(self._prompt_logprobs(self._params, chunk, ids))
            found += [token_logprobs(logprobs, (n,), int(ids[n]), num_top) for n in range(num)]
        return found

    def hidden_states(self, plan: StepPlan, handle: _Handle, item: Scheduled) -> np.ndarray:
        start = handle.starts[plan.items.index(item)]
        normed = self._final_norm(self._params, handle.hidden)
        return np.asarray(normed, np.float32)[start : start + item.num_tokens]

    def _run(
        self, shape: Shape, items: list[Scheduled], needs: BatchNeeds, options: StepOptions
    ) -> tuple[Sampled, jax.Array]:
        """Starts a step. Returns its samples, and the hidden states [T, D]."""
        # NumPy's array as it is: the call itself puts it, and sooner than device_put would.
        self._tokens, self._cache, sampled, hidden = self._step(
            shape.num_tokens,
            self._step_params,
            self._rows,
            self._tokens,
            self._cache,
            self._layout.pack(items, shape.num_seqs),
            needs,
            options,
        )
        return sampled, hidden


def _finish_at_exit(reference: weakref.ref[JaxExecutor]) -> None:
    """Waits for the last step before Python takes its modules apart: __del__ comes too late."""
    executor = reference()
    if executor is not None:
        executor._finish()
        executor._tokens = None
