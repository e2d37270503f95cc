"""Turns sampled tokens into events: the text of each sequence, and whether it has ended.

Deliberately does not know: steps, pages, other sequences.
"""

from __future__ import annotations

from flaxen.engine.pooling import Pooler
from flaxen.protocol import Finish, FinishReason, TokenEvent, TokenLogprobs
from flaxen.scheduling.executor import RowFailure
from flaxen.scheduling.sequence import Sequence
from flaxen.text.detokenize import Detokenizer
from flaxen.text.tokenizer import Tokenizer


class SequenceOutput:
    """Turns the tokens of one sequence into events.

    Args:
      sequence: the sequence, which is only read.
      tokenizer: None leaves all texts empty; `validate` refuses stop strings in this case.
      eos_ids: tokens that end a sequence, unless the request has ignore_eos.
    """

    def __init__(
        self, sequence: Sequence, tokenizer: Tokenizer | None, eos_ids: tuple[int, ...]
    ) -> None:
        sampling = sequence.sampling
        self.prompt_logprobs: list[TokenLogprobs | None] = []  # emitted with the first event
        self.pooler: Pooler | None = None
        if sequence.pooling is not None:
            self.pooler = Pooler(sequence.pooling, sequence.pooled_spans)
        self.sequence = sequence
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._eos_ids = frozenset() if sampling.ignore_eos else frozenset(eos_ids)
        self._detokenizer: Detokenizer | None = None
        if tokenizer is not None and sequence.pooling is None:  # else there is no text
            self._detokenizer = Detokenizer(
                tokenizer,
                sequence.tokens[: sequence.num_prompt_tokens],
                skip_special_tokens=sampling.skip_special_tokens,
                stop=sampling.stop,
                include_stop_str=sampling.include_stop_str_in_output,
                min_tokens=sampling.min_tokens,
            )

    def push(self, token_id: int, logprobs: TokenLogprobs | None) -> TokenEvent:
        """Makes the event of a token, which is already the sequence's last one."""
        sequence, sampling = self.sequence, self.sequence.sampling
        num_output = len(sequence.tokens) - sequence.num_prompt_tokens
        reason: FinishReason | None = None
        stop_reason: int | str | None = None
        if num_output >= sampling.min_tokens and token_id in self._stop_ids:
            reason, stop_reason = FinishReason.STOP, token_id
        elif num_output >= sampling.min_tokens and token_id in self._eos_ids:
            reason = FinishReason.STOP

        text = ""
        if self._detokenizer is not None:
            # A token that ends the sequence is not part of its text, unless requested.
            is_hidden = reason is not None and not sampling.include_stop_str_in_output
            text = self._detokenizer.push(token_id, is_hidden=is_hidden)
            if reason is None and self._detokenizer.stopped is not None:
                reason, stop_reason = FinishReason.STOP, self._detokenizer.stopped
        if reason is None and len(sequence.tokens) >= sequence.max_num_tokens:
            reason = FinishReason.LENGTH
        if reason is None:
            return self._event((token_id,), text, logprobs, None)
        return self.finish(reason, stop_reason, token_ids=(token_id,), text=text, logprobs=logprobs)

    def fail(self, failure: RowFailure) -> TokenEvent:
        """Makes the last event of a sequence whose row got no token."""
        match failure:
            case RowFailure.NOT_FINITE:
                error = "the model's output is not finite (NaN or infinity) for this sequence"
                return self.finish(FinishReason.ERROR, error=error)
            case RowFailure.NO_TOKEN_ALLOWED:
                options = "allowed_token_ids, bad_words, logit_bias and min_tokens"
                if self.sequence.grammar is not None:
                    options = "allowed_token_ids, bad_words, logit_bias, min_tokens and the grammar"
                error = f"no token may be sampled: {options} together forbid all of them"
                return self.finish(FinishReason.IMPOSSIBLE, error=error)

    def finish(
        self,
        reason: FinishReason,
        stop_reason: int | str | None = None,
        *,
        error: str | None = None,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: TokenLogprobs | None = None,
        pooled: tuple[float, ...] | None = None,
        spans: bytes = b"",
    ) -> TokenEvent:
        """Makes the sequence's last event, with the text that was still held back."""
        sequence = self.sequence
        is_stop_string = isinstance(stop_reason, str)
        if self._detokenizer is not None and not is_stop_string and error is None:
            text += self._detokenizer.flush()
        first = sequence.first_scheduled_s
        num_output = len(sequence.tokens) - sequence.num_prompt_tokens
        end = Finish(
            reason=reason,
            stop_reason=stop_reason,
            error=error,
            pooled=pooled,
            spans=spans,
            num_prompt_tokens=sequence.num_prompt_tokens,
            num_output_tokens=num_output,
            num_cached_tokens=sequence.num_cached_tokens or 0,
            # Drafts may have been right behind the answer's end.
            num_predicted_right=min(sequence.num_predicted_right, num_output),
            num_predicted_wrong=sequence.num_predicted_wrong,
            queue_s=max(0.0, first - sequence.arrival_s) if first is not None else 0.0,
            num_preemptions=sequence.num_preemptions,
            weights_version=sequence.weights_version,
        )
        return self._event(token_ids, text, logprobs, end)

    def _event(
        self,
        token_ids: tuple[int, ...],
        text: str,
        logprobs: TokenLogprobs | None,
        finish: Finish | None,
    ) -> TokenEvent:
        prompt_logprobs = None
        if len(self.prompt_logprobs) == self.sequence.num_prompt_tokens:  # not for an early end
            prompt_logprobs, self.prompt_logprobs = tuple(self.prompt_logprobs), []
        return TokenEvent(
            request_id=self.sequence.request_id,
            index=self.sequence.index,
            token_ids=token_ids,
            text=text,
            logprobs=None if logprobs is None else (logprobs,),
            prompt_logprobs=prompt_logprobs,
            finish=finish,
        )
