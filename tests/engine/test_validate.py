"""Requests that can never be served as asked are refused, and the message says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.engine.validate import validate
from flaxen.protocol import MAX_SEED, FieldError, ModelInfo, Request, SamplingParams
from tests.engine.fakes import SMALL

CONFIG = replace(SMALL, max_num_seqs=4, max_waiting=1, max_logprobs=3)
INFO = ModelInfo(
    name="m", vocab_size=50, max_model_len=64, max_logprobs=3, eos_token_ids=(2,), created=0
)


def check(
    num_prompt: int = 4, token_id: int = 7, *, has_tokenizer: bool = True, **sampling: Any
) -> None:
    request = Request(
        request_id="r",
        prompt_token_ids=(token_id,) * num_prompt,
        sampling=SamplingParams(**sampling),
    )
    validate(request, CONFIG, INFO, has_tokenizer=has_tokenizer)


def test_what_is_just_possible_passes() -> None:
    check(63)
    check(60, min_tokens=4, max_tokens=None)
    check(n=5, seed=MAX_SEED, logprobs=3, prompt_logprobs=0)
    check(token_id=49, stop_token_ids=(0, 49), allowed_token_ids=(0, 49), logit_bias={0: 1, 49: 1})
    check(max_tokens=10**9)  # as far as the model goes


@pytest.mark.parametrize(
    ("arguments", "message"),  # whose first argument is the field at fault, but for the prompt
    [
        ({"num_prompt": 64}, "the prompt has 64 tokens, and the model takes 64.* at most 63"),
        ({"num_prompt": 60, "min_tokens": 5}, "min_tokens is 5, .* 60 tokens leaves room for 4"),
        ({"n": 6}, "n must be at most 5, all that run or wait, got 6"),
        ({"stop": ("a", "a" * 1001)}, "a string of stop has 1001 characters, and at most 1000"),
        ({"has_tokenizer": False, "stop": ("a",)}, "stop strings need a tokenizer, and .* none"),
        ({"bad_words": ("a" * 1001,)}, "a string of bad_words has 1001 characters"),
        ({"bad_words": ("a",) * 129}, "bad_words has 129 entries, and at most 128"),
        ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias has 1025 .* at most 1024"),
        ({"logprobs": 4}, "^logprobs must be at most 3, got 4"),
        ({"prompt_logprobs": 4}, "prompt_logprobs must be at most 3, got 4"),
        ({"token_id": 50}, "the prompt holds token id 50, outside the vocabulary of 50"),
        ({"token_id": -1}, "the prompt holds token id -1"),
        ({"token_id": 7.0}, "the prompt must hold whole numbers, and holds a float"),
        ({"stop_token_ids": (1, 50)}, "stop_token_ids holds token id 50"),
        ({"allowed_token_ids": (-3,)}, "allowed_token_ids holds token id -3"),
        ({"logit_bias": {1: 1, 99: 1}}, "logit_bias holds token id 99"),
    ],
)  # fmt: skip
def test_what_is_impossible_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        check(**{"max_tokens": 60, **arguments})
    *_, field = arguments
    is_prompt = field in ("num_prompt", "token_id")
    assert caught.value.field == ("prompt_token_ids" if is_prompt else field)
