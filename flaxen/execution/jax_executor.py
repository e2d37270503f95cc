"""Runs the engine's steps through JAX: from plans to the calls of `device_state`, and back.

Deliberately does not know: when steps are planned, what ends a sequence, texts, where arrays are.
"""

from __future__ import annotations

import atexit
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxen.execution.compiled_step import step_layout
from flaxen.execution.device_calls import DeviceCalls, StepOutput
from flaxen.execution.device_state import DeviceState
from flaxen.execution.model_inputs import check_inputs
from flaxen.execution.page_copies import joined
from flaxen.execution.programs import Program, Programs, plan_programs
from flaxen.execution.results import step_result, to_host, token_logprobs
from flaxen.execution.rows import RowSettings, row_bias, row_settings, with_seed
from flaxen.execution.sampling import BatchNeeds
from flaxen.execution.shapes import step_shapes
from flaxen.execution.step_needs import (
    NO_NEEDS,
    batch_needs,
    exact_program,
    is_read_again,
    log_wait,
)
from flaxen.execution.step_options import prompt_embeds
from flaxen.models.expert_load import by_layer
from flaxen.models.model import Model, Params
from flaxen.protocol import AdapterWeights, Request, SamplingParams, TokenLogprobs
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor, StepResult
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import Sequence as EngineSequence
from flaxen.weights.adapters.adapter import Adapter

_LOGPROB_ROWS = 64  # prompt tokens with log-probabilities in one call


@dataclass(kw_only=True, slots=True)
class _Handle:
    starts: list[int]  # of each item's tokens in the step
    needs: BatchNeeds
    sampling: StepOutput | None = None  # None until a step with grammars samples
    held_back: Callable[[], object] | None = None  # starts it, if it has not been started
    normed: np.ndarray | None = None  # the hidden states after the final norm, once asked for

    @property
    def output(self) -> StepOutput:
        """The results of the step."""
        assert self.sampling is not None, "the step has not sampled"
        return self.sampling


class JaxExecutor(Executor):
    """Makes device calls of plans.

    When it is made, it compiles the first programs of `plan_programs`, and runs each once. The
    others are compiled by `warm_up`, or when a step needs them (`Programs.choose`).

    Args:
      model: the model; its backend runs the steps.
      params: its parameters, on the device and in the backend's form; shared, never changed or
        donated.
      config: the sizes.
      eos_ids: end-of-sequence ids.
      cache_dtype: of the KV pool.
      bad_word_ids: gives the token sequences of a request's bad words.
      on_compiled: called with (programs ready, programs planned) after each.
      compiles_beside: whether a thread calls `warm_up` beside the steps. Then the programs of steps
        with grammars are planned too.
      through: gets the calls on this process's devices, and returns those to make: other processes
        may have to make them too.
    """

    _device: DeviceCalls | None = None  # None if `__init__` failed before it made it
    _is_read_again = False  # the last step that was dispatched

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
        compiles_beside: bool = False,
        through: Callable[[DeviceCalls], DeviceCalls] = lambda calls: calls,
    ) -> None:
        self.vocab_size = model.vocab_size
        self._model, self._config = model, config
        self._expert_load = np.zeros(sum(model.num_experts), np.int64)
        self._eos_ids, self._bad_word_ids = eos_ids, bad_word_ids
        self._shapes, self._layout = step_shapes(config), step_layout(config)
        self._device = self._calls = through(DeviceState(model, params, config, cache_dtype))
        self._at_exit = functools.partial(_finish_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)
        adapted, pads = config.lora is not None, model.backend.pads_cheaply
        first, later = plan_programs(
            self._shapes,
            has_adapters=adapted,
            may_pad=pads,
            has_grammars=compiles_beside and model.generates,  # else it has no tokens to choose
        )
        self._programs = Programs(
            (*first, *later),
            may_pad=pads,
            are_compiled_beside=compiles_beside,
            on_compiled=on_compiled,
        )
        self._programs.compile_several(len(first), self._calls.compile)
        self._run_once(first)

    def warm_up(self) -> bool:
        return self._programs.compile_next(self._calls.compile)

    def _run_once(self, programs: Iterable[Program]) -> None:
        """Does what only a first request would do otherwise: no step is slower than the next."""
        self._load_settings(0, with_seed(row_settings(SamplingParams(), 1, (), ()), 0), [])
        self._calls.compile_adapter_load()
        for program in programs:
            packed = self._layout.pack([], program.shape.num_seqs)
            self._calls.step(program, packed, NO_NEEDS, None)

    def __del__(self) -> None:
        if self._device is not None:
            atexit.unregister(self._at_exit)
            self._device.finish()

    def reset(self) -> None:
        self._calls.reset()

    def row_settings(self, request: Request) -> RowSettings:
        sampling = request.sampling
        bad_words = self._bad_word_ids(sampling.bad_words)
        return row_settings(sampling, len(request.prompt_token_ids), bad_words, self._eos_ids)

    def check_inputs(self, request: Request) -> None:
        check_inputs(self._model, request)

    def load(self, sequence: EngineSequence, row: int) -> None:
        new = with_seed(sequence.row_settings, sequence.seed)
        self._load_settings(row, new, sequence.tokens)
        if new.has_bias:
            self._calls.load_bias(row, row_bias(sequence.sampling, self.vocab_size))

    def _load_settings(self, row: int, settings: RowSettings, tokens: list[int]) -> None:
        known = np.zeros(self._config.max_model_len, np.int32)
        known[: len(tokens)] = tokens
        self._calls.load_row(row, settings, known)

    def check_adapter(self, adapter: AdapterWeights) -> None:
        if not isinstance(adapter, Adapter):
            raise ValueError(
                f"an adapter must be a flaxen.weights.adapters.adapter.Adapter, got a "
                f"{type(adapter).__name__}"
            )
        self._calls.check_adapter(adapter)

    def content_key(self, adapter: AdapterWeights) -> str:
        assert isinstance(adapter, Adapter)
        return adapter.content_key()

    def load_adapter(self, slot: int, adapter: AdapterWeights) -> None:
        assert isinstance(adapter, Adapter)
        self._calls.load_adapter(slot, adapter.layers, adapter.config.scale)

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        rank = self._calls.set_adapter_stack(stack, scales)
        self._programs.forget()
        return rank

    def set_params(self, params: Any, *, are_owned: bool) -> None:
        self._calls.set_params(params, are_owned)
        if not are_owned:
            self._programs.forget()

    def sleep(self, *, keeps_weights: bool) -> None:
        self._calls.sleep(keeps_weights)

    def wake_weights(self) -> None:
        self._calls.wake_weights()

    def read_pages(self, pages: Sequence[Sequence[int]]) -> Callable[[], list[np.ndarray]]:
        parts = [
            self._calls.read_pages(group, np.asarray(each, np.int32))
            for group, each in enumerate(pages)
        ]
        return lambda: [joined(*each) for each in zip(parts, map(len, pages), strict=True)]

    def write_pages(
        self, pages: Sequence[Sequence[int]], contents: Sequence[Sequence[np.ndarray]]
    ) -> None:
        for group, (each, content) in enumerate(zip(pages, contents, strict=True)):
            if each:
                self._calls.write_pages(group, np.asarray(each, np.int32), content)

    def dispatch(self, plan: StepPlan) -> _Handle:
        ends = accumulate((item.num_tokens for item in plan.items), initial=0)
        needs = batch_needs(plan.items)
        program = self._programs.choose(exact_program(self._shapes, plan.items))
        shape = program.shape
        packed = self._layout.pack(plan.items, shape.num_seqs)
        embeds = prompt_embeds(plan.items, shape.num_tokens, self._model.embed_dim)
        handle = _Handle(starts=list(ends), needs=needs)
        call: Callable[..., StepOutput | None]
        call = self._calls.forward if program.has_grammar else self._calls.step
        run = functools.partial(call, program, packed, needs, embeds)
        start = functools.partial(self._start, program, plan, run)
        if program.has_grammar and self._is_read_again:
            handle.held_back = start  # what reads the last step would be computed after this one
        else:
            handle.sampling = start()
        self._is_read_again = is_read_again(plan.items)
        return handle

    def _start(
        self, program: Program, plan: StepPlan, run: Callable[[], StepOutput | None]
    ) -> StepOutput | None:
        """Starts a step, after its program is compiled."""
        if self._programs.is_ready(program):
            return run()
        started_s = time.perf_counter()
        output = self._programs.compile(program, run)
        log_wait(program, plan.items, time.perf_counter() - started_s)
        return output

    def sample(self, plan: StepPlan, handle: _Handle, bitmasks: np.ndarray) -> None:
        if handle.held_back is not None:
            handle.held_back()
        num_lines = self._num_lines(len(bitmasks))
        lines = np.zeros((num_lines, bitmasks.shape[1]), bitmasks.dtype)
        lines[: len(bitmasks)] = bitmasks
        handle.sampling = self._calls.sample(lines)

    def _num_lines(self, num_sampled: int) -> int:
        """The positions of the smallest step that samples at so many."""
        numbers = (self._layout.num_positions(s.num_seqs, s.num_tokens) for s in self._shapes)
        return min(number for number in numbers if number >= num_sampled)

    def is_done(self, handle: _Handle) -> bool:
        tokens: Any = handle.output.sampled.tokens  # JAX's types do not have `is_ready`
        return bool(tokens.is_ready())

    def fetch(self, plan: StepPlan, handle: _Handle) -> StepResult:
        load = handle.output.expert_load
        if load is not None:  # replaced, not changed: another thread may be reading it
            self._expert_load = self._expert_load + np.asarray(load)
        has_logprobs = bool(handle.needs.logprobs)
        return step_result(plan.items, handle.output.sampled, has_logprobs=has_logprobs)

    def expert_load(self) -> tuple[tuple[int, ...], ...]:
        return by_layer(self._model, self._expert_load) if self._model.num_experts else ()

    def prompt_logprobs(
        self, plan: StepPlan, handle: _Handle, item: Scheduled, targets: list[int], num_top: int
    ) -> list[TokenLogprobs]:
        start = handle.starts[plan.items.index(item)]
        hidden = np.asarray(handle.output.hidden)[start : start + len(targets)]
        found = []
        for i in range(0, len(targets), _LOGPROB_ROWS):
            chunk = np.zeros((_LOGPROB_ROWS, hidden.shape[1]), hidden.dtype)
            ids = np.zeros(_LOGPROB_ROWS, np.int32)
            num = len(targets[i : i + _LOGPROB_ROWS])
            chunk[:num], ids[:num] = hidden[i : i + num], targets[i : i + num]
            logprobs = to_host(self._calls.prompt_logprobs(chunk, ids))
            found += [token_logprobs(logprobs, (n,), int(ids[n]), num_top) for n in range(num)]
        return found

    def hidden_states(self, plan: StepPlan, handle: _Handle, item: Scheduled) -> np.ndarray:
        start = handle.starts[plan.items.index(item)]
        if handle.normed is None:
            normed = self._calls.final_norm(handle.output.number)
            handle.normed = np.asarray(normed, np.float32)
        return handle.normed[start : start + item.num_tokens]

    def vector(self, pooled: np.ndarray) -> np.ndarray:
        if self._model.head_on is None:
            return pooled
        return np.asarray(self._calls.head(pooled), np.float32)


def _finish_at_exit(reference: weakref.ref[JaxExecutor]) -> None:
    """Waits for the last step before Python takes its modules apart: __del__ comes too late."""
    executor = reference()
    if executor is not None and executor._device is not None:
        executor._device.finish()
        executor._device = None
