"""The outputs of generation for Python callers, with vLLM's names and structure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from flaxen.protocol import Finish, Request, TokenEvent, TokenLogprobs
from flaxen.text.tokenizer import Tokenizer

Pooled = TypeVar("Pooled")


@dataclass(frozen=True, slots=True)
class Logprob:
    """The log-probability of one token at one position."""

    logprob: float
    rank: int  # 1 is the likeliest
    decoded_token: str | None  # its text; None without a tokenizer


# For one position, by token id: the sampled token, then the likeliest ones.
Logprobs = dict[int, Logprob]


@dataclass(kw_only=True)
class CompletionOutput:
    """One of the sequences sampled for a prompt, so far."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None  # of all tokens; None unless logprobs were requested
    logprobs: list[Logprobs] | None = None  # one for each token
    finish_reason: str | None = None  # stop, length, abort or error; None while it runs
    stop_reason: int | str | None = None  # the stop token id or stop string that ended it
    error: str | None = None  # the message, for abort and error


@dataclass(kw_only=True)
class RequestOutput:
    """A prompt and its n outputs."""

    request_id: str
    prompt: str | None  # None if token ids were given
    prompt_token_ids: tuple[int, ...]
    outputs: list[CompletionOutput]
    # One for each prompt token, None for the first.
    prompt_logprobs: list[Logprobs | None] | None = None
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache, by the first sequence
    finished: bool = False
    tokenizer: Tokenizer | None = field(default=None, repr=False)  # for decoded_token

    @classmethod
    def of(
        cls, request: Request, prompt: str | None, tokenizer: Tokenizer | None = None
    ) -> RequestOutput:
        """Makes the output of a request, without tokens yet."""
        return cls(
            request_id=request.request_id,
            prompt=prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=[CompletionOutput(index=index) for index in range(request.sampling.n)],
            tokenizer=tokenizer,
        )

    def add(self, event: TokenEvent) -> None:
        """Adds the next event of the request."""
        output = self.outputs[event.index]
        output.text += event.text
        output.token_ids += event.token_ids
        if event.logprobs is not None:
            output.logprobs = output.logprobs or []
            output.logprobs += [self._logprobs(token) for token in event.logprobs]
            total = sum(token.logprob for token in event.logprobs)
            output.cumulative_logprob = (output.cumulative_logprob or 0.0) + total
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = [
                None if token is None else self._logprobs(token) for token in event.prompt_logprobs
            ]
        if event.finish is not None:
            self._finish(output, event.finish)

    def _logprobs(self, token: TokenLogprobs) -> Logprobs:
        ranked = [(token.token_id, token.logprob, token.rank)]
        ranked += [(each, value, rank) for rank, (each, value) in enumerate(token.top, start=1)]
        decode = self.tokenizer.token if self.tokenizer is not None else lambda token_id: None
        return {each: Logprob(value, rank, decode(each)) for each, value, rank in ranked}

    def _finish(self, output: CompletionOutput, finish: Finish) -> None:
        output.finish_reason = finish.reason.wire_name
        output.stop_reason, output.error = finish.stop_reason, finish.error
        if output.index == 0:
            self.num_cached_tokens = finish.num_cached_tokens
        self.finished = all(each.finish_reason is not None for each in self.outputs)


@dataclass(frozen=True, kw_only=True)
class EmbeddingOutput:
    """The embedding of a prompt."""

    embedding: list[float]


@dataclass(frozen=True, kw_only=True)
class ClassificationOutput:
    """The score of each label."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return len(self.probs)


@dataclass(frozen=True, kw_only=True)
class ScoringOutput:
    """How well two texts go together."""

    score: float


@dataclass(frozen=True, kw_only=True)
class PooledRequestOutput(Generic[Pooled]):
    """A prompt, or a pair of texts, and what was made of its vector."""

    request_id: str
    outputs: Pooled
    prompt_token_ids: tuple[int, ...]
    num_cached_tokens: int = 0
    finished: bool = True
