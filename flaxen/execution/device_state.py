"""An engine's state on the devices of this process. Every jit, donation and transfer is here; those
of adapters are in adapter_stack.

Deliberately does not know: requests, plans, which program a step runs.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.execution.adapter_stack import AdapterStack
from flaxen.execution.compiled_step import (
    StepState,
    jit_empty_state,
    jit_forward,
    jit_sample,
    jit_step,
    lower_parts,
    lower_step,
    num_top_tokens,
    step_layout,
    without_tokens,
)
from flaxen.execution.device_calls import DeviceCalls, StepOutput
from flaxen.execution.page_copies import PageCopies, PageParts
from flaxen.execution.params import check_same
from flaxen.execution.programs import Program
from flaxen.execution.rows import RowBias, RowSettings, load_bias, load_row
from flaxen.execution.sampling import BatchNeeds, Sampled
from flaxen.execution.step import prompt_logprobs, shapes_of
from flaxen.execution.step_options import StepOptions
from flaxen.kernels.awaited_mask import Tickets, can_await
from flaxen.kernels.linear.bound import bind
from flaxen.models.model import InputEmbeds, Model, Params
from flaxen.scheduling.config import EngineConfig
from flaxen.token_sampling.logprobs import Logprobs
from flaxen.weights.adapters.adapter import Adapter


@final
class DeviceState(DeviceCalls):
    """Runs the calls on this process's devices.

    Args:
      model: the model; its backend runs the steps.
      params: its parameters, on the device and in the backend's form; shared, never changed or
        donated.
      config: the sizes.
      cache_dtype: of the KV pool.
    """

    # None if `__init__` failed before it made them.
    _tokens: Any = None  # those of the rows
    # The tickets of steps that wait on the device for masks; None if such steps are two parts.
    _tickets: Tickets | None = None

    def __init__(
        self, model: Model, params: Params, config: EngineConfig, cache_dtype: jnp.dtype
    ) -> None:
        self._params = params
        self._param_shapes = shapes_of(params)
        # The parameters as the compiled step takes them. Nobody donates them while this holds them.
        self._bind = bind if model.backend.packs_weights else lambda params: params
        self._step_params = self._bind(params)
        self._layout = step_layout(config)
        # What all devices of a mesh have alike; without a mesh there is nothing to say.
        whole = None if model.placement is None else model.placement.replicated
        self._step = jit_step(model, config)
        if can_await(model.backend) and model.placement is None:
            self._tickets = Tickets()
        self._forward, self._sample = jit_forward(model, config), jit_sample(model, config)
        self._empty_state = jit_empty_state(model, config, cache_dtype)
        self._load_row = jax.jit(load_row, donate_argnums=(0, 1), out_shardings=whole)
        self._load_bias = jax.jit(load_bias, donate_argnums=0, out_shardings=whole)
        self._prompt_logprobs = jax.jit(
            functools.partial(prompt_logprobs, model, num_top_tokens(model, config)),
            out_shardings=whole,
        )
        # An encoder's last layer ends with its norm: a call that changes nothing costs 0.3 ms.
        norm = None if model.is_encoder else jax.jit(model.final_norm, out_shardings=whole)
        self._final_norm = norm
        self._head = jax.jit(model.head, out_shardings=whole)
        self._adapters = AdapterStack(model, config.lora)
        self._pages = PageCopies(model, config)
        self._num_steps = 0
        self._hidden: deque[tuple[int, jax.Array]] = deque(maxlen=2)  # of the last steps
        self._reset_state()
        # Where the devices' memory is the host's, weights need not be moved there.
        self._is_on_host = next(iter(self._tokens.devices())).platform == "cpu"
        # Taken once: a thread compiles from them while steps and `reset` replace the arrays.
        self._abstract_state: StepState = shapes_of(
            StepState(self._step_params, self._rows, self._tokens, self._cache)
        )
        self._abstract_adapters = shapes_of(self._adapters.arrays)

    def compile(self, program: Program) -> None:
        """Compiles a program, as DeviceCalls says; a call of `_step` finds it in JAX's cache."""
        state, lora = self._abstract_state, self._abstract_adapters
        if self._tickets is not None or not program.has_grammar:
            lower_step(self._step, self._layout, program, state, lora).compile()
            return
        forward, sample = lower_parts(
            self._forward, self._sample, self._layout, program, state, lora
        )
        forward.compile()
        sample.compile()

    def finish(self) -> None:
        self._close_tickets()
        tokens, self._tokens = self._tokens, None
        _wait_for(tokens)

    def reset(self) -> None:
        self._adapters.reset()
        self._reset_state()

    def _close_tickets(self) -> None:
        if self._tickets is not None:
            self._tickets.close()

    def _free_state(self) -> None:
        self._close_tickets()  # of a step for which nobody made masks
        self._hidden.clear()
        self._cache: tuple[Any, ...] = ()
        self._rows: Any = None  # Rows, unless it sleeps
        self._begun: tuple[Any, ...] = ()  # what `sample` needs of `forward`
        self._tokens = None

    def _reset_state(self) -> None:
        self._free_state()  # else there would be two for a moment
        # One call, not one an array: the memory is filled while the host goes on to compile.
        self._cache, rows = self._empty_state()
        self._tokens = rows.tokens
        self._rows = without_tokens(rows)

    def load_row(self, row: int, settings: RowSettings, known: np.ndarray) -> None:
        loaded, self._tokens = self._load_row(
            self._rows.settings, self._tokens, np.int32(row), settings, known
        )
        self._rows = self._rows._replace(settings=loaded)

    def load_bias(self, row: int, bias: RowBias) -> None:
        loaded = self._load_bias(self._rows.bias, np.int32(row), bias)
        self._rows = self._rows._replace(bias=loaded)

    def check_adapter(self, adapter: Adapter) -> None:
        self._adapters.check(adapter)

    def compile_adapter_load(self) -> None:
        self._adapters.compile_load()

    def load_adapter(self, slot: int, layers: Sequence[Any], scale: float) -> None:
        self._adapters.load(slot, layers, scale)

    def read_pages(self, group: int, pages: np.ndarray) -> PageParts:
        return self._pages.read(self._cache, group, pages)

    def write_pages(self, group: int, pages: np.ndarray, contents: Sequence[np.ndarray]) -> None:
        self._cache = self._pages.write(self._cache, group, pages, contents)

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        return self._adapters.serve_stack(stack, scales)

    def set_params(self, params: Any, are_owned: bool) -> None:
        check_same(self._param_shapes, params)
        _wait_for(self._tokens)
        # Who trains them donates them: then they are not bound, and XLA must know which step still
        # reads them.
        self._params, self._step_params = params, self._bind(params) if are_owned else params

    def sleep(self, keeps_weights: bool) -> None:
        _wait_for(self._tokens)
        self._free_state()
        self._adapters.free()
        if not keeps_weights:
            self._params = self._step_params = None
        elif not self._is_on_host:
            self._params, self._step_params = _moved(self._params, "pinned_host"), None

    def wake_weights(self) -> None:
        if not self._is_on_host:
            self._params = self._step_params = _moved(self._params, "device")

    def step(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
        mask_ticket: np.uint32 | None = None,  # whose mask its sampling awaits
    ) -> StepOutput:
        lora = self._adapters.arrays if program.has_adapters else None
        # NumPy's arrays as they are: the call itself puts them, and sooner than device_put would.
        self._tokens, self._cache, sampled, hidden, load = self._step(
            program.shape.num_tokens,
            self._step_params,
            self._rows,
            self._tokens,
            self._cache,
            packed,
            needs,
            StepOptions(lora, prompt_embeds, mask_ticket),
        )
        return self._output(sampled, hidden, load)

    def forward(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
    ) -> None:
        if self._tickets is not None:
            ticket = self._tickets.open()
            self._begun = ticket, self.step(program, packed, needs, prompt_embeds, ticket)
            return
        lora = self._adapters.arrays if program.has_adapters else None
        self._tokens, self._cache, last, hidden, load = self._forward(
            program.shape.num_tokens,
            self._step_params,
            self._tokens,
            self._cache,
            packed,
            StepOptions(lora, prompt_embeds),
        )
        self._begun = packed, needs, last, hidden, load

    def sample(self, grammar_bitmask: np.ndarray) -> StepOutput:
        if self._tickets is not None:
            ticket, output = self._begun
            self._tickets.publish(ticket, grammar_bitmask)
            return output  # type: ignore[no-any-return]
        packed, needs, last, hidden, load = self._begun
        packed = packed[: len(grammar_bitmask)]  # of what is padded, each line would be sampled
        if len(grammar_bitmask) < len(last):
            last = jax.lax.slice_in_dim(last, 0, len(grammar_bitmask))
        self._tokens, sampled = self._sample(
            self._step_params, self._rows, self._tokens, packed, last, needs, grammar_bitmask
        )
        return self._output(sampled, hidden, load)

    def _output(self, sampled: Sampled, hidden: jax.Array, load: jax.Array | None) -> StepOutput:
        self._num_steps += 1
        self._hidden.append((self._num_steps, hidden))
        return StepOutput(self._num_steps, sampled, hidden, load)

    def prompt_logprobs(self, hidden: np.ndarray, targets: np.ndarray) -> Logprobs:
        found: Logprobs = self._prompt_logprobs(self._params, hidden, targets)
        return found

    def final_norm(self, number: int) -> jax.Array:
        hidden: jax.Array = dict(self._hidden)[number]
        if self._final_norm is None:
            return hidden
        # Bound parameters are fewer arguments, and the norm's own are not packed.
        normed: jax.Array = self._final_norm(self._params, hidden)
        return normed

    def head(self, pooled: np.ndarray) -> jax.Array:
        logits: jax.Array = self._head(self._params, pooled)
        return logits


def _moved(params: Params, memory_kind: str) -> Params:
    """The parameters in another memory of their devices."""
    kinds = jax.tree.map(lambda leaf: leaf.sharding.with_memory_kind(memory_kind), params)
    moved: Params = jax.device_put(params, kinds)
    return moved


def _wait_for(tokens: Any) -> None:
    if tokens is not None and not tokens.is_deleted():
        # Not block_until_ready: jaxlib keeps its caller's code in a traceback, and one that
        # __del__ called was seen to be freed twice, which ended the process.
        np.asarray(tokens)
