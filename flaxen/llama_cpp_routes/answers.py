"""The JSON of llama.cpp's /completion: of one prompt, whole or in parts.

Deliberately does not know requests or streams.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxen.protocol import Finish, FinishReason, SamplingParams, TokenEvent, TokenLogprobs
from flaxen.server.generation.prompts import Prompt
from flaxen.server.generation.timings import timings_json
from flaxen.server.request_log import Timing
from flaxen.server.usage import Usage
from flaxen.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """The options of a request that decide which fields its answers have."""

    tokenizer: Tokenizer
    model: str
    is_streamed: bool
    with_tokens: bool
    num_probs: int | None  # how many of the likeliest tokens are told of each; None for none
    fields: Sequence[str]  # the fields of the whole answer, "a/b" for b in a; () is all
    max_model_len: int
    timings_in_parts: bool


@dataclass(kw_only=True)
class Answer:
    """One prompt's answer, as it comes. `add` each event, then ask for its part."""

    form: AnswerForm
    index: int  # of the prompt in its request
    prompt: Prompt
    sampling: SamplingParams
    usage: Usage
    timing: Timing = field(default_factory=Timing)
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: Finish | None = None

    def add(self, event: TokenEvent) -> None:
        """Appends an event."""
        self.usage.count(event)
        if event.token_ids:
            self.timing.tokens(len(event.token_ids), time.monotonic())
        self.text += event.text
        self.token_ids += event.token_ids
        self.logprobs += event.logprobs or ()
        self.finish = event.finish

    def part(self, event: TokenEvent) -> dict[str, Any]:
        """What a stream tells of an event."""
        told = {
            "index": self.index,
            "content": event.text,
            "tokens": list(event.token_ids),
            "stop": False,
            "id_slot": -1,  # there are none
            "tokens_predicted": self.usage.num_output,
            "tokens_evaluated": self.usage.num_prompt,
        }
        if self.form.timings_in_parts and self.timing.first_s is not None:
            told["timings"] = timings_json(self.usage, self.timing)
        return told | self._probabilities(event.logprobs)

    def whole(self) -> dict[str, Any]:
        """The answer; at the end of a stream without what its parts have told."""
        finish, form = self.finish, self.form
        assert finish is not None, "the streams have ended with an error otherwise"
        word = finish.stop_reason if isinstance(finish.stop_reason, str) else ""
        is_full = finish.num_prompt_tokens + finish.num_output_tokens >= form.max_model_len
        is_cut = finish.reason is FinishReason.LENGTH
        text = self.prompt.text
        if text is None:
            text = form.tokenizer.decode(self.prompt.token_ids, skip_special_tokens=False)
        told = {
            "index": self.index,
            "content": "" if form.is_streamed else self.text,
            "tokens": self.token_ids if form.with_tokens and not form.is_streamed else [],
            "id_slot": -1,
            "stop": True,
            "model": form.model,
            "tokens_predicted": self.usage.num_output,
            "tokens_evaluated": self.usage.num_prompt,
            "tokens_cached": self.usage.num_cached,
            "generation_settings": self._settings(),
            "prompt": text,
            "has_new_line": "\n" in self.text,
            "truncated": is_cut and is_full,
            "stop_type": "limit" if is_cut else "word" if word else "eos",
            "stopping_word": word,
            "timings": timings_json(self.usage, self.timing),
            "weights_version": self.usage.weights_version,
        }
        if not form.is_streamed:
            told |= self._probabilities(self.logprobs)
        return _chosen(told, form.fields) if form.fields else told

    def _settings(self) -> dict[str, Any]:
        sampling = self.sampling
        biases = (sampling.logit_bias or {}).items()
        return {
            "n_predict": sampling.max_tokens,
            "max_tokens": sampling.max_tokens,
            "seed": -1 if sampling.seed is None else sampling.seed,
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": [{"token": token, "bias": bias} for token, bias in biases],
            "stop": list(sampling.stop),
            "ignore_eos": sampling.ignore_eos,
            "n_probs": self.form.num_probs or 0,
            "stream": self.form.is_streamed,
        }

    def _probabilities(self, entries: Sequence[TokenLogprobs] | None) -> dict[str, Any]:
        count = self.form.num_probs
        if count is None or not entries:
            return {}
        told = [
            self._token(entry.token_id, entry.logprob)
            | {"top_logprobs": [self._token(*top) for top in entry.top[:count]]}
            for entry in entries
        ]
        return {"completion_probabilities": told}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        token = self.form.tokenizer.token_bytes(token_id)
        return {
            "id": token_id,
            "token": token.decode("utf-8", "replace"),
            "bytes": list(token),
            "logprob": max(logprob, -9999.0),  # JSON has no infinity
        }


def _chosen(told: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The fields that were asked for, as far as they are there."""
    found = {}
    for name in fields:
        value: Any = told
        for key in name.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[name] = value
    return found
