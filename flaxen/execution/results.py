"""Converts a step's arrays on the device to a StepResult.

Deliberately does not know: the computation, what ends a sequence.
"""

from __future__ import annotations

import jax
import numpy as np

from flaxen.execution.rows import NO_TOKEN
from flaxen.execution.sampling import OK, Sampled
from flaxen.protocol import TokenLogprobs, TopTokens
from flaxen.scheduling.executor import RowFailure, StepResult
from flaxen.scheduling.plan import Scheduled
from flaxen.token_sampling.logprobs import Logprobs


def step_result(items: list[Scheduled], sampled: Sampled, *, has_logprobs: bool) -> StepResult:
    """Waits for a step's samples [S, K + 1], and assigns them to the plan's items.

    Args:
      items: the plan's items.
      sampled: the samples, on the device.
      has_logprobs: whether any item's request has logprobs.
    """
    tokens, status = np.asarray(sampled.tokens).tolist(), np.asarray(sampled.status).tolist()
    arrays = to_host(sampled.logprobs) if has_logprobs else None
    result = StepResult(tokens=[], failures=[], logprobs=[])
    for line, item in enumerate(items):
        found, failure = _until_failure(tokens[line], status[line]) if item.samples else ([], None)
        num_top = item.sequence.sampling.num_logprobs
        logprobs: list[TokenLogprobs] = []
        if arrays is not None and num_top is not None:
            logprobs = [
                token_logprobs(arrays, (line, position), token_id, num_top)
                for position, token_id in enumerate(found)
            ]
        result.tokens.append(found)
        result.failures.append(failure)
        result.logprobs.append(logprobs)
    return result


def _until_failure(tokens: list[int], status: list[int]) -> tuple[list[int], RowFailure | None]:
    """A sequence's tokens up to the end, a rejected draft, or a failed sample."""
    found: list[int] = []
    for token_id, code in zip(tokens, status, strict=True):
        if token_id == NO_TOKEN:
            break
        if code != OK:
            return found, RowFailure(code)
        found.append(token_id)
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
