"""Device calls that other processes make too: process 0 sends each before it makes it itself, and
the others make what arrives, in the same order.

Deliberately does not know: sockets, plans, requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, final

import jax
import numpy as np

from flaxen.execution.device_calls import DeviceCalls, StepOutput
from flaxen.execution.page_copies import PageParts
from flaxen.execution.processes.channel import CLOSE
from flaxen.execution.programs import Program
from flaxen.execution.rows import RowBias, RowSettings
from flaxen.execution.sampling import BatchNeeds
from flaxen.execution.shapes import Shape
from flaxen.models.model import InputEmbeds
from flaxen.token_sampling.logprobs import Logprobs
from flaxen.weights.adapters.adapter import Adapter


class Sender(Protocol):
    """Sends a call's name and arguments to the other processes."""

    def __call__(self, name: str, arguments: Any) -> None: ...


@final
class RepeatedCalls(DeviceCalls):
    """Process 0's calls.

    Args:
      own: those on this process's devices.
      send: sends a call to the others.
    """

    def __init__(self, own: DeviceCalls, send: Sender) -> None:
        self._own, self._send = own, send

    def compile(self, program: Program) -> None:
        self._send("compile", _as_numbers(program))
        self._own.compile(program)

    def reset(self) -> None:
        self._send("reset", [])
        self._own.reset()

    def load_row(self, row: int, settings: RowSettings, known: np.ndarray) -> None:
        self._send("load_row", [row, settings, known])
        self._own.load_row(row, settings, known)

    def load_bias(self, row: int, bias: RowBias) -> None:
        self._send("load_bias", [row, bias])
        self._own.load_bias(row, bias)

    def check_adapter(self, adapter: Adapter) -> None:
        self._own.check_adapter(adapter)  # computes nothing

    def compile_adapter_load(self) -> None:
        self._send("compile_adapter_load", [])
        self._own.compile_adapter_load()

    def load_adapter(self, slot: int, layers: Sequence[Any], scale: float) -> None:
        self._send("load_adapter", [slot, list(layers), scale])
        self._own.load_adapter(slot, layers, scale)

    def step(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
    ) -> StepOutput:
        self._send("step", [_as_numbers(program), packed, needs, prompt_embeds])
        return self._own.step(program, packed, needs, prompt_embeds)

    def forward(
        self,
        program: Program,
        packed: np.ndarray,
        needs: BatchNeeds,
        prompt_embeds: InputEmbeds | None,
    ) -> None:
        self._send("forward", [_as_numbers(program), packed, needs, prompt_embeds])
        self._own.forward(program, packed, needs, prompt_embeds)

    def sample(self, grammar_bitmask: np.ndarray) -> StepOutput:
        self._send("sample", [grammar_bitmask])
        return self._own.sample(grammar_bitmask)

    def prompt_logprobs(self, hidden: np.ndarray, targets: np.ndarray) -> Logprobs:
        self._send("prompt_logprobs", [hidden, targets])
        return self._own.prompt_logprobs(hidden, targets)

    def final_norm(self, number: int) -> jax.Array:
        self._send("final_norm", [number])
        return self._own.final_norm(number)

    def head(self, pooled: np.ndarray) -> jax.Array:
        self._send("head", [pooled])
        return self._own.head(pooled)

    def read_pages(self, group: int, pages: np.ndarray) -> PageParts:
        self._send("read_pages", [group, pages])
        return self._own.read_pages(group, pages)

    def write_pages(self, group: int, pages: np.ndarray, contents: Sequence[np.ndarray]) -> None:
        self._send("write_pages", [group, pages, list(contents)])
        self._own.write_pages(group, pages, contents)

    def set_params(self, params: Any, are_owned: bool) -> None:
        raise _refuse("other parameters")

    def sleep(self, keeps_weights: bool) -> None:
        raise _refuse("sleep")

    def wake_weights(self) -> None:
        raise _refuse("sleep")

    def set_adapter_stack(self, stack: Any, scales: Any) -> int:
        raise _refuse("a trainer's adapters")

    def finish(self) -> None:
        self._own.finish()


def _refuse(what: str) -> ValueError:
    return ValueError(
        f"{what} can't be given to an engine that runs on several processes, because only this "
        "process would know of it: use one process"
    )


def follow(calls: DeviceCalls, next_message: Callable[[], tuple[str, Any]]) -> None:
    """Makes the calls that arrive, until the last one.

    Programs are compiled beside the steps, as process 0 compiles them; a step waits for its own.

    Args:
      calls: those on this process's devices.
      next_message: waits for a call's name and arguments.
    """
    compiling: dict[Program, Future[None]] = {}
    make = _calls(calls)
    with ThreadPoolExecutor(2, "flaxen-compile") as pool:
        while True:
            name, arguments = next_message()
            if name == CLOSE:
                return
            if name == "compile":
                program = _as_program(arguments)
                compiling[program] = pool.submit(calls.compile, program)
                continue
            needed = _as_program(arguments[0]) if name in ("step", "forward") else None
            if needed is not None and (pending := compiling.pop(needed, None)):
                pending.result()
            make[name](*arguments)


def _calls(calls: DeviceCalls) -> Mapping[str, Callable[..., object]]:
    """The calls by name, from arguments as `frames` reads them."""
    return {
        "reset": calls.reset,
        "load_row": lambda row, settings, known: calls.load_row(row, RowSettings(*settings), known),
        "load_bias": lambda row, bias: calls.load_bias(row, RowBias(*bias)),
        "compile_adapter_load": calls.compile_adapter_load,
        "load_adapter": calls.load_adapter,
        "step": lambda program, packed, needs, embeds: calls.step(
            _as_program(program), packed, BatchNeeds(*needs), _as_embeds(embeds)
        ),
        "forward": lambda program, packed, needs, embeds: calls.forward(
            _as_program(program), packed, BatchNeeds(*needs), _as_embeds(embeds)
        ),
        "sample": calls.sample,
        "prompt_logprobs": calls.prompt_logprobs,
        "final_norm": calls.final_norm,
        "read_pages": calls.read_pages,
        "write_pages": calls.write_pages,
    }


def _as_embeds(arrays: list[Any] | None) -> InputEmbeds | None:
    return None if arrays is None else InputEmbeds(*arrays)


def _as_numbers(program: Program) -> list[int | bool]:
    shape = program.shape
    kinds = program.has_adapters, program.has_grammar, program.has_embeds
    return [shape.num_tokens, shape.num_seqs, *kinds]


def _as_program(numbers: list[Any]) -> Program:
    num_tokens, num_seqs, has_adapters, has_grammar, has_embeds = numbers
    return Program(
        shape=Shape(num_tokens=num_tokens, num_seqs=num_seqs),
        has_adapters=has_adapters,
        has_grammar=has_grammar,
        has_embeds=has_embeds,
    )
