"""Beam search over any engine: the n likeliest continuations that were found, in place of samples.

Each step asks the engine for one token after every beam, with the likeliest tokens there; their
prefixes are in its cache. Scores are sums of log-probabilities under the model's own distribution,
divided by a power of the length, as in vLLM.

Deliberately does not know bodies, JSON or metrics.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from flaxen.protocol import (
    EngineClient,
    Finish,
    FinishReason,
    Request,
    SamplingParams,
    TokenEvent,
    TokenEvents,
    TokenLogprobs,
)
from flaxen.text.detokenize import Detokenizer
from flaxen.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Beam:
    """A continuation of a prompt."""

    token_ids: tuple[int, ...] = ()
    entries: tuple[TokenLogprobs, ...] = ()  # one for each token
    logprob: float = 0.0  # of all tokens together
    has_ended: bool = False  # with a stop token, which is its last one

    def score(self, num_prompt_tokens: int, length_penalty: float) -> float:
        """The higher, the better; a stop token does not count as length."""
        length = num_prompt_tokens + len(self.token_ids) - self.has_ended
        score: float = self.logprob / length**length_penalty
        return score


class BeamSearch:
    """What EngineStreams takes as an engine: `submit` searches with n beams.

    Args:
      engine: computes.
      tokenizer: makes the texts.
      length_penalty: the power of the length; 1 is the mean log-probability of a token, 0 the sum.
    """

    def __init__(
        self, engine: EngineClient, tokenizer: Tokenizer, *, length_penalty: float
    ) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._length_penalty = length_penalty
        self._searches: dict[str, _Search] = {}

    def submit(self, request: Request) -> TokenEvents:
        """As `EngineClient.submit`; the events come at the end, one for each sequence.

        Raises:
          ValueError, EngineBusyError, EngineClosedError: the engine refuses the first step.
        """
        search = _Search(self._engine, self._tokenizer, request, self._length_penalty)
        self._searches[request.request_id] = search
        return search

    def abort(self, request_id: str) -> None:
        """Ends a request early; an unknown id is ignored."""
        if request_id in self._searches:
            self._searches.pop(request_id).abort()


class _Search:
    """The search of one request, as its event stream."""

    def __init__(
        self, engine: EngineClient, tokenizer: Tokenizer, request: Request, length_penalty: float
    ) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._request, self._length_penalty = request, length_penalty
        self._begin_s = time.monotonic()
        self._num_steps = 0
        self._open: dict[str, TokenEvents] = {}  # of the step that runs, by request id
        self._first: Finish | None = None  # of the first step
        sampling, eos = request.sampling, engine.info.eos_token_ids
        self._eos = frozenset() if sampling.ignore_eos else frozenset(eos)
        self._stops = self._eos | set(sampling.stop_token_ids)
        room = engine.info.max_model_len - len(request.prompt_token_ids)
        self._max_tokens = room if sampling.max_tokens is None else sampling.max_tokens
        self._start([Beam()])  # here, so that a refusal is the caller's

    async def aclose(self) -> None:
        """Ends what still runs."""
        self.abort()
        for stream in self._open.values():
            await stream.aclose()
        self._open.clear()

    def abort(self) -> None:
        """Aborts the step that runs."""
        for request_id in self._open:
            self._engine.abort(request_id)

    async def __aiter__(self) -> AsyncIterator[TokenEvent]:
        sampling = self._request.sampling
        beams, ended = [Beam()], list[Beam]()
        for left in reversed(range(self._max_tokens)):
            found = []
            for beam, (_, stream) in zip(beams, list(self._open.items()), strict=True):
                async for event in stream:
                    if event.finish is not None and not event.finish.reason.is_complete:
                        yield replace(event, request_id=self._request.request_id)
                        return  # the caller raises
                    self._first = self._first or event.finish
                    for entry in event.logprobs or ():
                        likeliest = entry.top[: 2 * sampling.n]
                        found += [self._extended(beam, entry, *top) for top in likeliest]
            ended += [beam for beam in found if beam.has_ended]
            beams = self._best([beam for beam in found if not beam.has_ended])
            if not left or not beams:
                break
            self._start(beams)
        for index, beam in enumerate(self._best(ended + beams)[: sampling.n]):
            yield self._event(index, beam)

    def _start(self, beams: list[Beam]) -> None:
        """Submits a step: a token after each beam."""
        request, sampling = self._request, self._request.sampling
        left_s = request.timeout_s
        if left_s is not None:  # at least something, so that the engine says that it is over
            left_s = max(1e-3, left_s - (time.monotonic() - self._begin_s))
        num_top = max(2 * sampling.n, sampling.logprobs or 0)
        likeliest = SamplingParams(max_tokens=1, temperature=0, logprobs=num_top)
        self._open = {}
        for number, beam in enumerate(beams):
            step = replace(
                request,
                request_id=f"{request.request_id}-{self._num_steps}-{number}",
                prompt_token_ids=request.prompt_token_ids + beam.token_ids,
                sampling=likeliest,
                timeout_s=left_s,
            )
            self._open[step.request_id] = self._engine.submit(step)
        self._num_steps += 1

    def _extended(self, beam: Beam, at: TokenLogprobs, token_id: int, logprob: float) -> Beam:
        rank = 1 + sum(other > logprob for _, other in at.top)
        entry = TokenLogprobs(token_id=token_id, logprob=logprob, rank=rank, top=at.top)
        return Beam(
            token_ids=(*beam.token_ids, token_id),
            entries=(*beam.entries, entry),
            logprob=beam.logprob + logprob,
            has_ended=token_id in self._stops,
        )

    def _best(self, beams: list[Beam]) -> list[Beam]:
        num_prompt = len(self._request.prompt_token_ids)

        def badness(beam: Beam) -> float:
            return -beam.score(num_prompt, self._length_penalty)

        return sorted(beams, key=badness)[: self._request.sampling.n]

    def _event(self, index: int, beam: Beam) -> TokenEvent:
        request, sampling = self._request, self._request.sampling
        detokenizer = Detokenizer(
            self._tokenizer,
            request.prompt_token_ids,
            skip_special_tokens=sampling.skip_special_tokens,
            stop=(),
            include_stop_str=sampling.include_stop_str_in_output,
            min_tokens=0,
        )
        last = len(beam.token_ids) - 1
        hides = beam.has_ended and not sampling.include_stop_str_in_output
        text = "".join(
            detokenizer.push(token_id, is_hidden=hides and place == last)
            for place, token_id in enumerate(beam.token_ids)
        )
        is_eos = beam.has_ended and beam.token_ids[-1] in self._eos
        assert self._first is not None, "the first step has ended"
        finish = replace(
            self._first,
            reason=FinishReason.STOP if beam.has_ended else FinishReason.LENGTH,
            stop_reason=beam.token_ids[-1] if beam.has_ended and not is_eos else None,
            num_output_tokens=len(beam.token_ids),
        )
        return TokenEvent(
            request_id=request.request_id,
            index=index,
            token_ids=beam.token_ids,
            text=text + detokenizer.flush(),
            logprobs=None if sampling.logprobs is None else beam.entries,
            finish=finish,
        )
