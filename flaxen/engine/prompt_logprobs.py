"""Log-probabilities of prompt tokens, chunk by chunk, after the step that computed the chunk.

They count as part of the step, so that the pace learns their cost. A failure only ends its own
sequence.

Deliberately does not know: their computation, when steps are planned.
"""

from __future__ import annotations

from typing import Any

from flaxen.protocol import TokenLogprobs
from flaxen.scheduling.executor import Executor
from flaxen.scheduling.plan import Scheduled, StepPlan
from flaxen.scheduling.sequence import Sequence

PromptLogprobs = dict[Sequence, list[TokenLogprobs] | Exception]


def compute_prompt_logprobs(executor: Executor, plan: StepPlan, handle: Any) -> PromptLogprobs:
    """The prompt log-probabilities of a fetched step, for sequences that have not ended."""
    logprobs: PromptLogprobs = {}
    for item in plan.items:
        sequence = item.sequence
        if item.num_scored and not sequence.ended:
            assert sequence.prompt_logprobs is not None, "the request has no prompt logprobs"
            first = item.start + 1
            targets = sequence.tokens[first : first + item.num_scored]
            try:
                logprobs[sequence] = executor.prompt_logprobs(
                    plan, handle, item, targets, sequence.prompt_logprobs
                )
            except Exception as error:  # only this sequence fails
                logprobs[sequence] = error
    return logprobs


def collect(
    found: list[TokenLogprobs | None], item: Scheduled, logprobs: list[TokenLogprobs] | Exception
) -> None:
    """Adds a chunk's log-probabilities to the prompt's; a prompt that is computed again starts
    over.

    Raises:
      Exception: the device's error.
    """
    if isinstance(logprobs, Exception):
        raise logprobs
    if item.start == 0:
        found[:] = [None]  # the first token has no log-probability
    found += logprobs
