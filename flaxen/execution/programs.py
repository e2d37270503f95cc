"""The compiled programs of the step: which there are, when each is compiled, which one a step runs
(decision 0253).

Deliberately does not know JAX, or what a program computes.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from flaxen.execution.shapes import Shape

Result = TypeVar("Result")

# Padded tokens after which a step waits for its own program: computing them took about as long as
# a compilation (decision 0336).
_MAX_PADDING = 8192


@dataclass(frozen=True, kw_only=True, order=True)
class Program:
    """A step is compiled for a shape, and apart for each set of inputs that only some steps have.

    Programs are in the order of what a step costs.
    """

    shape: Shape
    has_adapters: bool = False
    has_grammar: bool = False
    has_embeds: bool = False

    def covers(self, needed: Program) -> bool:
        """Whether this program computes what another one does: a step without adapters may be one
        with adapters of which no sequence has any.
        """
        return (
            self.shape.num_tokens >= needed.shape.num_tokens
            and self.shape.num_seqs >= needed.shape.num_seqs
            and self.has_adapters >= needed.has_adapters
            and (self.has_grammar, self.has_embeds) == (needed.has_grammar, needed.has_embeds)
        )


def plan_programs(
    shapes: Sequence[Shape], *, has_adapters: bool, may_pad: bool, has_grammars: bool = False
) -> tuple[tuple[Program, ...], tuple[Program, ...]]:
    """Plans what is compiled before the first request, and what after that, both in order.

    Args:
      shapes: those of the steps, smallest first.
      has_adapters: whether adapters are served.
      may_pad: whether a step may run a program that covers it. If so, the first programs cover
          every step, with or without adapters, alone or with others; what comes later only runs
          faster. Otherwise they are the ones of a single request without an adapter: the largest
          shape and the smallest.
      has_grammars: whether those of steps with grammars are compiled too, after all others, where
          a step may be padded. Otherwise the first step that needs one waits for it.
    """
    kinds = (False, True) if has_adapters else (False,)
    if may_pad:
        small = shapes[max(0, min(1, len(shapes) - 2))]  # of a few sequences
        first = [
            Program(shape=shape, has_adapters=has_adapters)
            for shape in dict.fromkeys((small, shapes[-1]))
        ]
    else:
        first = [Program(shape=shape) for shape in dict.fromkeys((shapes[0], shapes[-1]))]
    later = [Program(shape=shape, has_adapters=kind) for kind in kinds for shape in shapes]
    if has_grammars and may_pad:
        later += [
            Program(shape=shape, has_adapters=has_adapters, has_grammar=True) for shape in shapes
        ]
    return tuple(first), tuple(each for each in later if each not in first)


class Programs:
    """Which programs are compiled. Safe to call from several threads.

    Args:
      planned: those to compile in advance, in order.
      may_pad: whether a step may run a larger program that covers it.
      are_compiled_beside: whether a thread calls `compile_next` beside the steps. If so, a step
        never waits for a program where another covers it.
      on_compiled: called with (compiled, planned) after each of the planned ones.
    """

    def __init__(
        self,
        planned: Iterable[Program],
        *,
        may_pad: bool,
        are_compiled_beside: bool = False,
        on_compiled: Callable[[int, int], None] | None = None,
    ) -> None:
        self._may_pad, self._on_compiled = may_pad, on_compiled
        self._are_compiled_beside = are_compiled_beside
        self._padding: Counter[Program] = Counter()  # tokens, since the steps needed each
        self._lock = threading.Lock()  # guards the next two
        self._left = deque(planned)
        self._planned = frozenset(self._left)
        self._started: dict[Program, Future[None]] = {}
        self._num_planned, self._num_done = len(self._left), 0

    def choose(self, exact: Program) -> Program:
        """The program that a step runs: the cheapest of those that are compiled and cover it, or
        else its own, for which it waits. With grammars it also waits for one that nobody plans,
        because the next steps would be padded for ever. Where no thread compiles beside the steps,
        it waits for one that they were padded for long enough. Only one thread may call this.
        """
        with self._lock:
            ready = [each for each in self._started if self._started[each].done()]
        is_unplanned = exact.has_grammar and exact not in self._planned
        if exact in ready or not self._may_pad or is_unplanned:
            return exact
        chosen = min((each for each in ready if each.covers(exact)), default=exact)
        self._padding[exact] += chosen.shape.num_tokens - exact.shape.num_tokens
        if self._padding[exact] > _MAX_PADDING and not self._are_compiled_beside:
            return exact
        return chosen

    def is_ready(self, program: Program) -> bool:
        """Whether the program is compiled."""
        with self._lock:
            return program in self._started and self._started[program].done()

    def compile(self, program: Program, run: Callable[[], Result]) -> Result:
        """Calls `run`, which compiles the program unless it is compiled. Another thread that
        compiles it now is waited for.
        """
        with self._lock:
            is_ours = program not in self._started
            done = self._started.setdefault(program, Future())
        if not is_ours:
            wait([done])
            return run()
        try:
            return run()
        except BaseException:
            with self._lock:
                if self._started.get(program) is done:  # it may be forgotten since
                    del self._started[program]
            raise
        finally:
            done.set_result(None)

    def compile_next(self, compile_one: Callable[[Program], object]) -> bool:
        """Compiles the next of the planned programs. Returns False if none is left."""
        with self._lock:
            if not self._left:
                return False
            program = self._left.popleft()
        if not self.is_ready(program):
            self.compile(program, lambda: compile_one(program))
        with self._lock:
            self._num_done += 1
            num_done = self._num_done
        if self._on_compiled is not None:
            self._on_compiled(num_done, self._num_planned)
        return True

    def compile_several(self, num: int, compile_one: Callable[[Program], object]) -> None:
        """Compiles the next ones at once, each on a thread: XLA takes one processor for each."""
        with ThreadPoolExecutor(max(1, num)) as pool:
            list(pool.map(self.compile_next, [compile_one] * num))

    def forget(self) -> None:
        """Nothing is compiled any more, because the steps have other parameters or adapters."""
        with self._lock:
            self._left.clear()
            self._started.clear()
