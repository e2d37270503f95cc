"""Converts a step's arrays on the device to a StepResult, and compares drafts with samples.

Deliberately does not know: the computation, what ends a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import jax
import numpy as np

from flaxen.execution.sampling import OK, Sampled
from flaxen.protocol import TokenLogprobs, TopTokens
from flaxen.scheduling.executor import RowFailure, StepResult
from flaxen.scheduling.plan import Scheduled
from flaxen.token_sampling.logprobs import Logprobs


def step_result(items: list[Scheduled], sampled: Sampled, *, has_logprobs: bool) -> StepResult:
    """Waits for a step's samples, and assigns them to the plan's items: 1 + its drafts to each.

    Args:
      items: the plan's items.
      sampled: the samples, on the device.
      has_logprobs: whether any item's request has logprobs.
    """
    tokens, status = np.asarray(sampled.tokens).tolist(), np.asarray(sampled.status).tolist()
    arrays = to_host(sampled.logprobs) if has_logprobs else None
    result = StepResult(tokens=[], failures=[], logprobs=[])
    first = 0  # of the item's samples
    for item in items:
        end = first + 1 + item.num_drafts
        found, failure = list[int](), None
        if item.samples:
            drafts = item.sequence.draft_token_ids[: item.num_drafts]
            found, failure = verified(tokens[first:end], status[first:end], drafts)
        num_top = item.sequence.sampling.num_logprobs
        logprobs: list[TokenLogprobs] = []
        if arrays is not None and num_top is not None:
            logprobs = [
                token_logprobs(arrays, (place,), token_id, num_top)
                for place, token_id in enumerate(found, start=first)
            ]
        first = end
        result.tokens.append(found)
        result.failures.append(failure)
        result.logprobs.append(logprobs)
    return result


def verified(
    tokens: list[int], status: list[int], drafts: Sequence[int]
) -> tuple[list[int], RowFailure | None]:
    """A sequence's tokens: the drafts that are accepted, and the token after them.

    Args:
      tokens: what was sampled after its last known token and after each draft.
      status: of these samples, as in `Sampled`.
      drafts: one fewer.

    Returns:
      The tokens, and why the last one failed, which is then not among them.
    """
    found: list[int] = []
    for token_id, code, draft in zip_longest(tokens, status, drafts):
        if code != OK:
            return found, RowFailure(code)
        found.append(token_id)
        if token_id != draft:
            break
    return found, None


def to_host(logprobs: Logprobs) -> Logprobs:
    """Waits for the arrays and copies them to NumPy."""
    return jax.tree.map(np.asarray, logprobs)  # type: ignore[no-any-return]


def token_logprobs(
    logprobs: Logprobs, at: tuple[int, ...], token_id: int, num_top: int
) -> TokenLogprobs:
    """The log-probabilities of one token.

    Args:
      logprobs: the arrays, on the host.
      at: the token's index in `logprobs`.
      token_id: the token.
      num_top: how many of the likeliest tokens to report.
    """
    top = TopTokens(
        logprobs.top_ids[at][:num_top].tobytes(), logprobs.top_logprobs[at][:num_top].tobytes()
    )
    logprob, rank = float(logprobs.logprob[at]), int(logprobs.rank[at])
    kept = None if logprobs.kept_mass is None else float(logprobs.kept_mass[at])
    return TokenLogprobs(token_id=token_id, logprob=logprob, rank=rank, top=top, kept_mass=kept)
