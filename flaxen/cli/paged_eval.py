"""The log-probabilities of `flaxen eval` through the pages of an engine's KV cache.

Perplexity is otherwise computed as in training, without a cache. Here each sequence is the prompt
of a request, so that what its tokens read was rounded as `--kv-cache-dtype` says. Imports JAX only
when it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flaxen.build import OnProgress, Parts
    from flaxen.data.batch import Batch
    from flaxen.engine_args import EngineArgs
    from flaxen.models.model import Model
    from flaxen.text.tokenizer import Tokenizer
    from flaxen.training.evaluate import LogprobFn


def check_pages(task: str, adapter: Path | None) -> None:
    """Refuses what is not computed through pages.

    Raises:
      ValueError: the task is not perplexity, or there is an adapter.
    """
    if task == "choice":
        raise ValueError(
            "--kv-cache-dtype is for perplexity, and these are questions with choices: leave it out"
        )
    if adapter is not None:
        raise ValueError(
            "--kv-cache-dtype and an adapter are not evaluated together: merge it first, with "
            "flaxen merge"
        )


def open_in_pages(
    args: EngineArgs, length: int | None, on_progress: OnProgress
) -> tuple[Model, Tokenizer, LogprobFn]:
    """Builds an engine. The model's longest row leaves room for the token that follows a prompt.

    Args:
      args: with the format of the KV cache.
      length: tokens of a row; None is as long as the model and its cache allow.
      on_progress: as in `flaxen.build.build`.

    Raises:
      ValueError: as in `flaxen.build.build`.
    """
    from flaxen.build import build

    # A prompt has a target more than a row has inputs, and one token is generated after it.
    max_len = None if length is None else length + 2
    parts = build(replace(args, max_model_len=max_len), on_progress)
    model = replace(parts.model, max_position=parts.cache_plan.max_model_len - 2)
    return model, parts.tokenizer, paged_logprobs(parts)


def paged_logprobs(parts: Parts) -> LogprobFn:
    """Makes the function that scores each target of a batch, [B, T], as a token of a prompt."""

    def logprobs(batch: Batch) -> np.ndarray:
        found = np.zeros(batch.targets.shape, np.float32)
        for row, places, prompt in _prompts(batch):
            values = _of_prompt(parts, prompt)
            found[row, places] = values[: len(places)]
        return found

    return logprobs


def _prompts(batch: Batch) -> Iterator[tuple[int, np.ndarray, tuple[int, ...]]]:
    """The row, the places of the targets, and the tokens of each sequence of a batch."""
    for row, ids in enumerate(batch.segment_ids):
        for segment in range(1, int(ids.max()) + 1):
            places = np.flatnonzero(ids == segment)
            tokens = batch.tokens[row, places].tolist()
            last = int(batch.targets[row, places[-1]])
            if last >= 0:
                tokens.append(last)
            if len(tokens) > 1:
                yield row, places[: len(tokens) - 1], tuple(tokens)


def _of_prompt(parts: Parts, prompt: tuple[int, ...]) -> list[float]:
    """The log-probability of each token of a prompt but the first."""
    from flaxen.outputs import RequestOutput
    from flaxen.protocol import Request, SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True, prompt_logprobs=0)
    request = Request(request_id="prompt", prompt_token_ids=prompt, sampling=sampling)
    output = RequestOutput.of(request, None)
    parts.engine.add(parts.engine.check(request))
    while parts.engine.has_work:
        for event in parts.engine.step():
            output.add(event)
    (only,) = output.outputs
    if only.error is not None:
        raise ValueError(f"a prompt could not be scored: {only.error}")
    assert output.prompt_logprobs is not None
    scored = zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
    return [each[token].logprob for token, each in scored if each is not None]
