"""The engine: requests in, token events out, one step at a time.

A step is planned and dispatched while the one before it runs; then the results of the earlier one
are turned into events. Nothing here waits for the device except `fetch`.

Knows: requests, the scheduler, an executor, what ends a sequence.
Deliberately does not know: JAX, threads, HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from flaxen.engine.adapters.store import AdapterStore
from flaxen.engine.checked import CheckedRequest
from flaxen.engine.config import EngineConfig
from flaxen.engine.deadlines import Deadlines
from flaxen.engine.executor import Executor, RowFailure, StepResult
from flaxen.engine.outputs import SequenceOutput
from flaxen.engine.pace import Pace
from flaxen.engine.plan import StepPlan
from flaxen.engine.prompt_scores import Scores, collect, score_prompts
from flaxen.engine.scheduler import Scheduler
from flaxen.engine.sequence import Sequence, sequence_of
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.drafts import Drafts
from flaxen.engine.stats import adapter_infos, engine_stats
from flaxen.engine.validate import validate
from flaxen.protocol import (
    AdapterInfo,
    EngineBusyError,
    EngineStats,
    FinishReason,
    ModelInfo,
    Request,
    RequestIdInUseError,
    TokenEvent,
    TokenLogprobs,
)
from flaxen.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _Open:
    """A request that has not ended."""

    outputs: dict[Sequence, SequenceOutput] = field(default_factory=dict)  # those not ended
    worst: FinishReason = FinishReason.STOP


@dataclass(slots=True)
class _InFlight:
    plan: StepPlan
    started_s: float  # by the engine's clock
    handle: Any = None


class Engine:
    """Serves requests step by step. One thread at a time may call it, except `check` and `stats`.

    Args:
      config: the sizes.
      executor: runs the steps.
      info: the model's name and limits.
      tokenizer: None leaves all text empty.
      drafter: proposes draft tokens, which the steps verify; None: there are none.
      seed: from which requests without a seed get theirs.
      clock: seconds, monotonic.
    """

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        info: ModelInfo,
        tokenizer: Tokenizer | None,
        *,
        drafter: Drafter | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.info = config, info
        self._executor, self._tokenizer, self._clock = executor, tokenizer, clock
        max_adapters = config.lora.max_cpu_loras if config.lora is not None else None
        self.adapters = AdapterStore(max_adapters, executor.check_adapter)
        self._pace: Pace | None = None
        if config.target_itl_ms != 0:
            target_s = None if config.target_itl_ms is None else config.target_itl_ms / 1000
            self._pace = Pace(target_s, config.max_num_batched_tokens)
        self._scheduler = Scheduler(config, pace=self._pace, clock=clock)
        self._drafts = Drafts(drafter, config.num_spec_tokens, info.vocab_size)
        self._last_fetch_s = 0.0
        self._seeds = random.Random(seed)
        self._open: dict[str, _Open] = {}
        self._deadlines: Deadlines[tuple[str, _Open]] = Deadlines()  # also of those that ended
        self._in_flight: _InFlight | None = None
        self._events: list[TokenEvent] = []  # of this call of step
        self._num_ended = dict.fromkeys(FinishReason, 0)
        self._num_generated = 0
        self._num_steps = 0
        self.schedule_s = 0.0  # seconds spent planning, in all

    @property
    def has_work(self) -> bool:
        """Some request has not ended, or some event has not been returned."""
        return bool(self._open or self._events or self._in_flight)

    def check(self, request: Request) -> CheckedRequest:
        """Checks all of a request that does not depend on the moment; `add` takes what it returns.

        Raises:
          ValueError: the request can't be served as asked; a FieldError where one of its fields is
            at fault, an UnknownAdapterError where nobody knows its adapter.
          OSError: its adapter can't be read.
        """
        adapter = None if request.adapter is None else self.adapters.find(request.adapter)
        has_tokenizer = self._tokenizer is not None
        validate(request, self.config, self.info, has_tokenizer=has_tokenizer)
        return CheckedRequest(
            request=request, adapter=adapter, row_settings=self._executor.row_settings(request)
        )

    def add(self, checked: CheckedRequest, arrival_s: float | None = None) -> None:
        """Queues a request.

        Args:
          checked: what `check` returned. Its adapter serves it even if it was unloaded meanwhile;
            only that of a trainer's stack is the one that the stack has under the name now.
          arrival_s: when it came, by the engine's clock; None is now.

        Raises:
          RequestIdInUseError: its id is that of a request that has not ended.
          UnknownAdapterError: its adapter was of a trainer's stack, or one took its place, and
            none has the name now.
          EngineBusyError: the queue is full.
        """
        request, sampling = checked.request, checked.request.sampling
        if request.request_id in self._open:
            raise RequestIdInUseError(request.request_id)
        if checked.adapter is not None:
            checked = replace(checked, adapter=self.adapters.renew(checked.adapter))
        if not self.has_room(sampling.n):
            raise EngineBusyError(
                f"the queue is full: {self._scheduler.num_waiting} sequences wait, and at most "
                f"{self.config.max_waiting} may; try again later"
            )
        arrival_s = self._clock() if arrival_s is None else arrival_s
        seed = self._seeds.getrandbits(62) if sampling.seed is None else sampling.seed
        opened = _Open()
        if request.timeout_s is not None:
            self._deadlines.add(arrival_s + request.timeout_s, (request.request_id, opened))
        for index in range(sampling.n):
            sequence = sequence_of(checked, index, seed + index, arrival_s)
            sequence.waits_for_tokens = self._drafts.is_on
            output = SequenceOutput(sequence, self._tokenizer, self.info.eos_token_ids)
            opened.outputs[sequence] = output
        self._open[request.request_id] = opened  # whole, so that `abort` finds all there may be
        for sequence in opened.outputs:
            self._scheduler.add(sequence)

    def is_open(self, request_id: str) -> bool:
        """Whether a request was added and has not ended. Any thread may call."""
        return request_id in self._open

    def has_room(self, num_seqs: int) -> bool:
        """Whether a request of so many sequences can be added now: all may run or wait."""
        num_open = self._scheduler.num_running + self._scheduler.num_waiting
        return num_open + num_seqs <= self.config.max_num_seqs + self.config.max_waiting

    def abort(self, request_id: str) -> None:
        """Ends a request and frees all it owns; an unknown id is ignored."""
        if request_id in self._open:
            self._end_all(self._open[request_id], FinishReason.ABORT, "aborted by the client")

    def step(self) -> list[TokenEvent]:
        """Dispatches the next step, then returns the events of the one before it."""
        self._end_overdue()
        previous, self._in_flight = self._in_flight, None
        try:
            self._dispatch()
            if previous is not None:
                result = self._executor.fetch(previous.plan, previous.handle)
                scores = score_prompts(self._executor, previous.plan, previous.handle)
                self._observe(previous)
                self._process(previous, result, scores)
        except Exception as error:  # the device's: whose fault it was can't be told
            self._fail_steps([previous, self._in_flight], error)
        except BaseException as error:  # Ctrl-C: what the device was told is half a step
            self._fail_steps([previous, self._in_flight], error)
            raise
        events, self._events = self._events, []
        return events

    def warm_up(self) -> bool:
        """Makes one more step shape ready, when there is nothing else to do. False: none is left.

        What it runs has no tokens, and changes nothing.
        """
        return self._executor.warm_up()

    def set_params(self, params: Any) -> None:
        """Serves other parameters from the next step on: these very arrays, with no copy.

        Nothing that was computed before is found in the prefix cache any more; sequences that run
        go on with the keys that they have. Whoever donates the arrays to a computation must set
        others before the next step.

        Args:
          params: of the same tree, shapes and dtypes.

        Raises:
          ValueError: they are not.
        """
        self._executor.set_params(params)
        self._scheduler.drop_prefix_cache()

    def set_adapter_stack(self, names: tuple[str, ...], stack: Any, scales: Any) -> None:
        """Serves the adapters of a stack that someone else trains: these very arrays, with no copy.

        They take the place of all that are loaded, until others are set. No names ends it, and
        leaves the engine without adapters, as it began.

        Args:
          names: n that requests may use, one for each adapter of the stack.
          stack: as models/adapters.py has it, [n, ...] float32.
          scales: [n] float32.

        Raises:
          ValueError: sequences run or wait, or a name is given twice.
        """
        if self._in_flight and not (self._open or self._events):
            self.step()  # it was planned before the last sequence ended, and brings nothing
        if self.has_work:
            raise ValueError("the adapters can't be changed at once while sequences run or wait")
        if len(set(names)) != len(names):
            raise ValueError(f"every adapter of a stack needs its own name, got {names}")
        rank = self._executor.set_adapter_stack(stack if names else None, scales)
        fixed = self.adapters.fix(names, rank)
        self._scheduler.adapter_slots.fix(fixed or None)

    def known_adapters(self) -> tuple[AdapterInfo, ...]:
        """The adapters that requests may name. Any thread may call."""
        return adapter_infos(self.adapters, self._scheduler.adapter_slots)

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        return engine_stats(
            self._scheduler,
            self._num_ended,
            num_generated=self._num_generated,
            num_steps=self._num_steps,
        )

    def _dispatch(self) -> None:
        started = time.perf_counter()
        plan = self._scheduler.schedule(self._drafts.counts)
        self.schedule_s += time.perf_counter() - started
        if not plan.items:
            return
        self._in_flight = _InFlight(plan, self._clock())
        self._drafts.drop(item.sequence for item in plan.items)
        for slot, adapter in plan.adapter_loads:
            assert adapter.weights is not None, "a slot that is never empty is to be filled"
            self._executor.load_adapter(slot, adapter.weights)
        for item in plan.items:
            if item.load_row:
                self._executor.load(item.sequence, item.row)
        self._in_flight.handle = self._executor.dispatch(plan)
        self._num_steps += 1

    def _observe(self, done: _InFlight) -> None:
        """Tells the pace how long a step took."""
        began_s, self._last_fetch_s = max(done.started_s, self._last_fetch_s), self._clock()
        if self._pace is not None:
            num_tokens = done.plan.num_decoding + done.plan.num_catching_up
            num_scored = sum(item.num_scored for item in done.plan.items)
            self._pace.observe(num_tokens, num_scored, self._last_fetch_s - began_s)

    def _process(self, done: _InFlight, result: StepResult, scores: Scores) -> None:
        """Turns a step's samples into events. What fails here fails its own sequence alone."""
        for item, token_ids, failure, logprobs in zip(
            done.plan.items, result.tokens, result.failures, result.logprobs, strict=True
        ):
            sequence = item.sequence
            if failure is RowFailure.NOT_FINITE:  # also if it ended before its pages proved bad
                self._scheduler.forget(sequence)
            if sequence.ended:
                continue
            try:
                output = self._open[sequence.request_id].outputs[sequence]
                if sequence.is_scored:
                    collect(output.prompt_logprobs, item, scores.get(sequence, []))
                # The last token is none of the drafts, but what comes after the accepted ones.
                num_accepted = len(token_ids) - (failure is None)
                self._scheduler.settle_drafts(sequence, item.num_drafts, num_accepted)
                for token_id, logprob in zip_longest(token_ids, logprobs):
                    self._append(sequence, output, token_id, logprob)
                    if sequence.ended:
                        break
                else:
                    if failure is not None:
                        self._emit(sequence, output.fail(failure))
                    elif token_ids:
                        self._drafts.propose(sequence)
            except Exception as error:  # this sequence's alone: its neighbours go on
                self._break(sequence, f"internal error: {error!r}")

    def _append(
        self,
        sequence: Sequence,
        output: SequenceOutput,
        token_id: int,
        logprobs: TokenLogprobs | None,
    ) -> None:
        """Takes a sampled token that reached the host, and emits its event."""
        self._scheduler.append(sequence, token_id)
        self._num_generated += 1
        self._emit(sequence, output.push(token_id, logprobs))

    def _emit(self, sequence: Sequence, event: TokenEvent) -> None:
        """Adds an event; the last one of a sequence ends it, and that of the last the request."""
        self._events.append(event)
        if event.finish is None:
            return
        self._scheduler.end(sequence)
        self._drafts.drop([sequence])
        opened = self._open[sequence.request_id]
        del opened.outputs[sequence]
        severity = list(FinishReason).index
        opened.worst = max(opened.worst, event.finish.reason, key=severity)
        if not opened.outputs:
            del self._open[sequence.request_id]
            self._num_ended[opened.worst] += 1

    def _break(self, sequence: Sequence, error: str) -> None:
        """Ends a sequence that failed. The pages that it filled are not shared on."""
        self._scheduler.forget(sequence)
        output = self._open[sequence.request_id].outputs[sequence]
        self._emit(sequence, output.finish(FinishReason.ERROR, error=error))

    def _end_all(self, opened: _Open, reason: FinishReason, error: str) -> None:
        """Ends a request before its time."""
        for sequence, output in list(opened.outputs.items()):
            self._emit(sequence, output.finish(reason, error=error))

    def _end_overdue(self) -> None:
        for request_id, opened in self._deadlines.pop_due(self._clock()):
            if self._open.get(request_id) is opened:  # else it has ended
                error = "timeout: the request took longer than it was given"
                self._end_all(opened, FinishReason.TIMEOUT, error)

    def _fail_steps(self, failed: list[_InFlight | None], error: BaseException) -> None:
        """Ends the sequences of steps that the device could not run; the others start again."""
        for in_flight in failed:
            for item in in_flight.plan.items if in_flight is not None else ():
                if not item.sequence.ended:
                    self._break(item.sequence, f"the step failed: {error!r}")
        self._in_flight = None
        self._executor.reset()
        self._scheduler.reset()
