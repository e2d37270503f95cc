"""From a step's results to token events: tokens, texts, vectors, and how sequences end.

Knows: the requests that have not ended, what ends a sequence, drafts and grammars.
Deliberately does not know: when steps run, JAX.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, final

import numpy as np

from flaxen.engine.open_requests import OpenRequests
from flaxen.engine.outputs import SequenceOutput
from flaxen.engine.prompt_logprobs import PromptLogprobs, collect
from flaxen.engine.speculative.drafts import Drafts
from flaxen.protocol import FinishReason, TokenEvent, TokenLogprobs
from flaxen.scheduling.executor import Executor, RowFailure, StepResult
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.scheduler import Scheduler
from flaxen.scheduling.sequence import Sequence


@final
class StepEvents:
    """Collects the events of a call of `Engine.step`, and ends the sequences that have their last.

    Args:
      executor: gives hidden states, for pooling.
      scheduler: is told which tokens were sampled, and which sequences ended.
      requests: those that have not ended.
      drafts: of the sequences.
    """

    def __init__(
        self, executor: Executor, scheduler: Scheduler, requests: OpenRequests, drafts: Drafts
    ) -> None:
        self._executor, self._scheduler = executor, scheduler
        self._requests, self._drafts = requests, drafts
        self._events: list[TokenEvent] = []
        self.num_generated = 0  # tokens since the start

    @property
    def are_left(self) -> bool:
        """Whether an event has not been taken."""
        return bool(self._events)

    def take(self) -> list[TokenEvent]:
        """Returns the events since the last call."""
        events, self._events = self._events, []
        return events

    def process(
        self, plan: StepPlan, handle: Any, result: StepResult, of_prompts: PromptLogprobs
    ) -> None:
        """Turns a step's samples into events. A failure here only ends its own sequence.

        Args:
          plan: the step's plan.
          handle: the executor's handle of the step.
          result: what the step sampled.
          of_prompts: the log-probabilities of prompt tokens that the step computed.
        """
        for item, token_ids, failure, logprobs in zip(
            plan.items, result.tokens, result.failures, result.logprobs, strict=True
        ):
            sequence = item.sequence
            # Even if the sequence has already ended, its pages may be bad.
            if failure is RowFailure.NOT_FINITE:
                self._scheduler.invalidate(sequence)
            if sequence.ended:
                continue
            try:
                output = self._requests.output(sequence)
                if sequence.is_scored:
                    collect(output.prompt_logprobs, item, of_prompts.get(sequence, []))
                if sequence.pooling is not None:
                    self._pool(plan, handle, item, output)
                    continue
                # The last token is not a draft: it was sampled after the accepted ones.
                num_accepted = len(token_ids) - (failure is None)
                self._scheduler.settle_drafts(sequence, item.num_drafts, num_accepted)
                self._drafts.verified(sequence, item.num_drafts, num_accepted)
                for token_id, logprob in zip_longest(token_ids, logprobs):
                    self._append(sequence, output, token_id, logprob)
                    if sequence.ended:
                        break
                else:
                    if failure is not None:
                        self.add(sequence, output.fail(failure))
            except Exception as error:  # only this sequence fails; others continue
                self.fail(sequence, f"internal error: {error!r}")

    def _pool(self, plan: StepPlan, handle: Any, item: Scheduled, output: SequenceOutput) -> None:
        """Adds a chunk to a prompt's vector; finishes the sequence after the last chunk."""
        sequence, pooler = item.sequence, output.pooler
        assert pooler is not None, "nothing is pooled"
        if item.load_row:  # just admitted, or resumed: computed from its beginning
            pooler.reset()
        pooler.add(self._executor.hidden_states(plan, handle, item))
        if item.start + item.num_tokens < sequence.num_prompt_tokens:
            return
        vector = self._executor.vector(pooler.vector())
        if np.isfinite(vector).all():
            pooled, spans = tuple(vector.tolist()), pooler.spans().tobytes()
            self.add(sequence, output.finish(FinishReason.STOP, pooled=pooled, spans=spans))
        else:
            self._scheduler.invalidate(sequence)
            self.add(sequence, output.fail(RowFailure.NOT_FINITE))

    def _append(
        self,
        sequence: Sequence,
        output: SequenceOutput,
        token_id: int,
        logprobs: TokenLogprobs | None,
    ) -> None:
        """Appends a sampled token that reached the host, and emits its event."""
        self._scheduler.append(sequence, token_id)
        self.num_generated += 1
        self.add(sequence, output.push(token_id, logprobs))
        if sequence.grammar is not None and not sequence.ended:
            try:
                sequence.grammar.accept(token_id)
            except RuntimeError as error:
                self.give_up(sequence, str(error))

    def add(self, sequence: Sequence, event: TokenEvent) -> None:
        """Adds an event. A sequence's last event ends it; the last sequence's ends the request."""
        self._events.append(event)
        if event.finish is None:
            return
        self._scheduler.end(sequence)
        self._drafts.end(sequence)
        self._requests.end(sequence, event.finish.reason)

    def give_up(self, sequence: Sequence, error: str) -> None:
        """Ends a sequence whose grammar can't be followed any further: its pages are good."""
        output = self._requests.output(sequence)
        self.add(sequence, output.finish(FinishReason.IMPOSSIBLE, error=error))

    def fail(self, sequence: Sequence, error: str) -> None:
        """Ends a sequence that failed, and invalidates the pages that it filled."""
        self._scheduler.invalidate(sequence)
        output = self._requests.output(sequence)
        self.add(sequence, output.finish(FinishReason.ERROR, error=error))

    def fail_step(self, plan: StepPlan, error: BaseException) -> None:
        """The same for all sequences of a step that the device could not run."""
        for item in plan.items:
            if not item.sequence.ended:
                self.fail(item.sequence, f"the step failed: {error!r}")

    def end_request(self, request_id: str, reason: FinishReason, error: str) -> None:
        """Ends a request early; an unknown id is ignored."""
        for output in self._requests.outputs(request_id):
            self.add(output.sequence, output.finish(reason, error=error))

    def end_overdue(self, now_s: float) -> None:
        """Ends the requests whose time is over."""
        for request_id in self._requests.pop_due(now_s):
            error = "timeout: the request took longer than it was given"
            self.end_request(request_id, FinishReason.TIMEOUT, error)
