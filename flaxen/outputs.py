"""What generation returns to Python callers; names are vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field

from flaxen.protocol import Finish, Request, TokenEvent, TokenLogprobs


@dataclass(kw_only=True)
class CompletionOutput:
    """One of the sequences sampled for a prompt, as far as it has come."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None  # of the tokens; None unless logprobs were asked for
    logprobs: list[TokenLogprobs] | None = None  # one a token
    finish_reason: str | None = None  # stop, length, abort or error; None while it runs
    stop_reason: int | str | None = None  # the stop token id or stop string that ended it
    error: str | None = None  # what happened, for abort and error


@dataclass(kw_only=True)
class RequestOutput:
    """A prompt and its n outputs."""

    request_id: str
    prompt: str | None  # None where token ids were given
    prompt_token_ids: tuple[int, ...]
    outputs: list[CompletionOutput]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache, by the first sequence
    finished: bool = False

    @classmethod
    def of(cls, request: Request, prompt: str | None) -> RequestOutput:
        """The output of a request that has no tokens yet."""
        return cls(
            request_id=request.request_id,
            prompt=prompt,
            prompt_token_ids=request.prompt_token_ids,
            outputs=[CompletionOutput(index=index) for index in range(request.sampling.n)],
        )

    def add(self, event: TokenEvent) -> None:
        """Takes the next event of the request."""
        output = self.outputs[event.index]
        output.text += event.text
        output.token_ids += event.token_ids
        if event.logprobs is not None:
            output.logprobs = (output.logprobs or []) + list(event.logprobs)
            total = sum(token.logprob for token in event.logprobs)
            output.cumulative_logprob = (output.cumulative_logprob or 0.0) + total
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = event.prompt_logprobs
        if event.finish is not None:
            self._finish(output, event.finish)

    def _finish(self, output: CompletionOutput, finish: Finish) -> None:
        output.finish_reason = str(finish.reason)
        output.stop_reason, output.error = finish.stop_reason, finish.error
        if output.index == 0:
            self.num_cached_tokens = finish.num_cached_tokens
        self.finished = all(each.finish_reason is not None for each in self.outputs)
