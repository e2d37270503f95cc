"""The engine: requests in, token events out, one step at a time.

A step is planned and dispatched while the previous one runs; then the previous step's results are
turned into events (`step_events`). Nothing here waits for the device except `fetch`.

Knows: requests, the scheduler, the executor interface.
Deliberately does not know: what ends a sequence, JAX, threads, HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flaxen.engine.open_requests import OpenRequests
from flaxen.engine.outputs import SequenceOutput
from flaxen.engine.page_copying import copy_pages
from flaxen.engine.prompt_logprobs import compute_prompt_logprobs
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.drafts import Drafts
from flaxen.engine.speculative.payoff import Payoff
from flaxen.engine.stats import adapter_infos, engine_stats
from flaxen.engine.step_events import StepEvents
from flaxen.engine.step_timing import StepTiming
from flaxen.engine.stepped import SteppedEngine
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
)
from flaxen.scheduling.adapters.store import AdapterStore
from flaxen.scheduling.checked import CheckedRequest
from flaxen.scheduling.config import EngineConfig
from flaxen.scheduling.executor import Executor
from flaxen.scheduling.pace import pace_of
from flaxen.scheduling.plan import StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import sequence_of
from flaxen.scheduling.step_grammars import deciding_grammars, has_grammar
from flaxen.stored_pages.page_store import PageStore
from flaxen.structured.states import fill_bitmasks, grammar_states
from flaxen.text.tokenizer import Tokenizer

_PAGES_WAIT_S = 0.005  # for stored pages, between two looks at what else there is to do


@dataclass(slots=True)
class _InFlight:
    plan: StepPlan
    began_s: float  # on the engine's clock
    waited: bool  # whether it was planned only when the step before had been fetched
    handle: Any = None


class Engine(SteppedEngine):
    """Serves requests step by step, on one device or on the mesh of its model.

    Args:
      config: the sizes.
      executor: runs the steps.
      info: the model's name and limits.
      tokenizer: None leaves all texts empty.
      drafter: proposes draft tokens, which steps verify; None for no speculative decoding.
      payoff: decides whether drafts pay; None measures it.
      store: keeps pages elsewhere too; replicas share one.
      publish: gets vLLM's KV events of each step; None: nobody does.
      adapters: the adapters, which another replica has too; None makes an empty store.
      seed: the source of seeds for requests without one; replicas share a Random, so that a seed
        does not depend on the replica.
      clock: monotonic seconds.
    """

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        info: ModelInfo,
        tokenizer: Tokenizer | None,
        *,
        drafter: Drafter | None = None,
        payoff: Payoff | None = None,
        store: PageStore | None = None,
        publish: Callable[[list[dict[str, Any]]], None] | None = None,
        adapters: AdapterStore | None = None,
        seed: int | random.Random = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.info = config, info
        self._executor, self._tokenizer, self._clock = executor, tokenizer, clock
        max_adapters = config.lora.max_cpu_loras if config.lora is not None else None
        content_key = None if store is None else executor.content_key
        self.adapters = adapters or AdapterStore(max_adapters, executor.check_adapter, content_key)
        pace = pace_of(config)
        self._scheduler = Scheduler(config, pace=pace, store=store, publish=publish, clock=clock)
        self._stored = self._scheduler.pools.stored
        self._drafts = Drafts(drafter, config, info.vocab_size, payoff or Payoff(), clock)
        self._timing = StepTiming(clock, pace, self._drafts)
        self._seeds = seed if isinstance(seed, random.Random) else random.Random(seed)
        self._requests = OpenRequests()
        self._in_flight: _InFlight | None = None
        self._events = StepEvents(executor, self._scheduler, self._requests, self._drafts)
        self._failed_idle = False  # whether the last call of `step` failed, and no device's step
        self._num_steps = 0
        self.schedule_s = 0.0

    @property
    def capacity(self) -> int:
        return self.config.max_num_seqs + self.config.max_waiting

    @property
    def is_ready(self) -> bool:
        """Whether `step` would not wait for the device."""
        waited_for = self._in_flight
        return waited_for is None or self._executor.is_done(waited_for.handle)

    @property
    def has_work(self) -> bool:
        is_busy = self._requests or self._events.are_left or self._in_flight
        return bool(is_busy or self._stored.has_work)

    def check(self, request: Request) -> CheckedRequest:
        adapter = None if request.adapter is None else self.adapters.find(request.adapter)
        validate(request, self.config, self.info, has_tokenizer=self._tokenizer is not None)
        self._executor.check_inputs(request)
        return CheckedRequest(
            request=request,
            adapter=adapter,
            grammars=grammar_states(request),
            row_settings=self._executor.row_settings(request),
        )

    def add(self, checked: CheckedRequest, arrival_s: float | None = None) -> None:
        request, sampling = checked.request, checked.request.sampling
        if request.request_id in self._requests:
            raise RequestIdInUseError(request.request_id)
        if checked.adapter is not None:
            checked = replace(checked, adapter=self.adapters.current(checked.adapter))
        if not self.has_room(sampling.n):
            raise EngineBusyError(
                f"the queue is full: {self._scheduler.num_waiting} sequences wait, and at most "
                f"{self.config.max_waiting} may; try again later"
            )
        arrival_s = self._clock() if arrival_s is None else arrival_s
        seed = self._seeds.getrandbits(62) if sampling.seed is None else sampling.seed
        due_s = None if request.timeout_s is None else arrival_s + request.timeout_s
        outputs = []
        for index in range(sampling.n):
            sequence = sequence_of(checked, index, seed + index, arrival_s)
            outputs.append(SequenceOutput(sequence, self._tokenizer, self.info.eos_token_ids))
        self._requests.add(request.request_id, outputs, due_s)  # `abort` finds all sequences
        for output in outputs:
            self._scheduler.add(output.sequence)

    def is_open(self, request_id: str) -> bool:
        return request_id in self._requests

    def has_room(self, num_seqs: int) -> bool:
        num_open = self._scheduler.num_running + self._scheduler.num_waiting
        return num_open + num_seqs <= self.capacity

    def abort(self, request_id: str) -> None:
        self._events.end_request(request_id, FinishReason.ABORT, "aborted by the client")

    def step(self, *, plans: bool = True) -> list[TokenEvent]:
        self._events.end_overdue(self._clock())
        previous, self._in_flight = self._in_flight, None
        is_held = previous is not None and self._drafts.holds
        is_idle = previous is None
        try:
            if plans and not is_held:
                self._dispatch()
            if previous is not None:
                result = self._executor.fetch(previous.plan, previous.handle)
                logprobs = compute_prompt_logprobs(self._executor, previous.plan, previous.handle)
                self._timing.ended(previous.plan, previous.began_s, waited=previous.waited)
                self._events.process(previous.plan, previous.handle, result, logprobs)
                previous = None
                self._drafts.propose(self._scheduler, is_ahead=self._in_flight is not None)
            if plans and is_held:
                self._dispatch(since_s=self._timing.last_end_s + self._drafts.proposing_s)
            self._sample()
            if is_idle and self._in_flight is None:
                self._scheduler.wait_for_pages(_PAGES_WAIT_S)
            self._failed_idle = False
        except Exception as error:  # from the device: it can't be told which sequence caused it
            is_idle = previous is None and self._in_flight is None
            if is_idle and self._failed_idle:
                raise  # it would be raised for ever: there is no sequence to end for it
            self._failed_idle = is_idle
            self._fail_steps([previous, self._in_flight], error)
        except BaseException as error:  # Ctrl-C: perhaps only half a step was dispatched
            self._fail_steps([previous, self._in_flight], error)
            raise
        if (events := self._scheduler.pools.events) is not None:
            events.flush()
        return self._events.take()

    def warm_up(self) -> bool:
        return self._executor.warm_up() or self._drafts.warm_up()

    def set_params(
        self, params: Any, version: int | None = None, *, are_owned: bool = False
    ) -> None:
        self._executor.set_params(params, are_owned=are_owned)
        if version is None:
            version = self._scheduler.pools.weights_version + 1
        self._scheduler.drop_prefix_cache(weights_version=version)

    def reset_prefix_cache(self) -> None:
        self._scheduler.drop_prefix_cache()

    def sleep(self, *, keeps_weights: bool) -> None:
        assert self._in_flight is None, "the last step was not waited for"
        self._scheduler.reset()
        self._stored.free_memory()
        self._executor.sleep(keeps_weights=keeps_weights)
        self._drafts.sleep()

    def wake_weights(self) -> None:
        self._executor.wake_weights()

    def wake_cache(self) -> None:
        self._executor.reset()
        self._drafts.wake()

    def set_adapter_stack(self, names: tuple[str, ...], stack: Any, scales: Any) -> None:
        if self._requests or self._events.are_left:
            raise ValueError("the adapters can't be changed at once while sequences run or wait")
        while self.has_work:
            self.step()  # what was planned before the last sequence ended returns nothing
        if len(set(names)) != len(names):
            raise ValueError(f"every adapter of a stack needs its own name, got {names}")
        rank = self._executor.set_adapter_stack(stack if names else None, scales)
        fixed = self.adapters.serve_stack(names, rank)
        self._scheduler.adapter_slots.serve_stack(fixed or None)

    def known_adapters(self) -> tuple[AdapterInfo, ...]:
        return adapter_infos(self.adapters, self._scheduler.adapter_slots)

    def stats(self) -> EngineStats:
        return engine_stats(
            self._scheduler,
            self._requests.num_ended,
            num_generated=self._events.num_generated,
            num_steps=self._num_steps,
            expert_tokens=self._executor.expert_load(),
        )

    def _dispatch(self, since_s: float | None = None) -> None:
        """Plans and starts a step; since when the device waits for it, if it does."""
        started = time.perf_counter()
        filled = self._stored.take_filled()
        plan = self._scheduler.schedule(self._drafts.counts)
        self.schedule_s += time.perf_counter() - started
        if plan.items:
            began_s = self._clock() if since_s is None else since_s
            self._in_flight = _InFlight(plan, began_s, waited=since_s is not None)
        copy_pages(self._executor, self._stored, filled, len(self.config.groups))
        if self._in_flight is None:
            return
        self._drafts.drop(item.sequence for item in plan.items)
        for slot, adapter in plan.adapter_loads:
            assert adapter.weights is not None, "a slot that is never empty is to be filled"
            self._executor.load_adapter(slot, adapter.weights)
        for item in plan.items:
            if item.load_row:
                self._executor.load(item.sequence, item.row)
        self._in_flight.handle = self._executor.dispatch(plan)
        self._num_steps += 1

    def _sample(self) -> None:
        """Lets the dispatched step sample, if grammars decide what: now that they have the tokens
        of the step before, and while the device computes the logits.
        """
        if self._in_flight is None or not has_grammar(self._in_flight.plan.items):
            return
        plan = self._in_flight.plan
        grammars = deciding_grammars(plan.items)
        bitmasks, failures = fill_bitmasks(grammars, self.info.vocab_size)
        for index, error in failures.items():
            self._events.give_up(plan.items[index].sequence, str(error))
        self._executor.sample(plan, self._in_flight.handle, bitmasks)

    def _fail_steps(self, failed: list[_InFlight | None], error: BaseException) -> None:
        """Ends the sequences of steps that the device could not run; others are computed again."""
        for in_flight in failed:
            if in_flight is not None:
                self._events.fail_step(in_flight.plan, error)
        self._in_flight = None
        self._executor.reset()
        self._scheduler.reset()
