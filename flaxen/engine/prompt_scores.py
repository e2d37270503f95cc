"""Log-probabilities of prompts, chunk by chunk, after the step that computed the chunk.

They count as part of the step, so that its time tells the pace what they cost. One that fails
fails its sequence alone.

Deliberately does not know: how they are computed, when steps are planned.
"""

from __future__ import annotations

from typing import Any

from flaxen.engine.executor import Executor
from flaxen.engine.plan import Scheduled, StepPlan
from flaxen.engine.sequence import Sequence
from flaxen.protocol import TokenLogprobs

Scores = dict[Sequence, list[TokenLogprobs] | Exception]


def score_prompts(executor: Executor, plan: StepPlan, handle: Any) -> Scores:
    """The scores of a step that was fetched: those of sequences that have not ended."""
    scores: Scores = {}
    for item in plan.items:
        sequence = item.sequence
        if item.num_scored and not sequence.ended:
            assert sequence.prompt_logprobs is not None, "scores that nobody wants"
            first = item.start + 1
            targets = sequence.tokens[first : first + item.num_scored]
            try:
                scores[sequence] = executor.score_prompt(
                    plan, handle, item, targets, sequence.prompt_logprobs
                )
            except Exception as error:  # this sequence's alone
                scores[sequence] = error
    return scores


def collect(
    found: list[TokenLogprobs | None], item: Scheduled, scores: list[TokenLogprobs] | Exception
) -> None:
    """Adds a chunk's to a prompt's; one that is computed again starts again.

    Raises:
      Exception: what the device said in place of scores.
    """
    if isinstance(scores, Exception):
        raise scores
    if item.start == 0:
        found[:] = [None]  # nothing predicts the first token
    found += scores
