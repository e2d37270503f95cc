"""The outputs of `flaxen generate`: what is said of those that failed or were cut."""

from __future__ import annotations

import json

import pytest

from flaxen.cli.generate.outputs import as_json, as_text, check_outputs, describe_cuts
from flaxen.outputs import CompletionOutput, RequestOutput


def made(
    num_tokens: int = 3, finish_reason: str = "stop", error: str | None = None
) -> RequestOutput:
    completion = CompletionOutput(
        index=0,
        text="b",
        token_ids=[7] * num_tokens,
        finish_reason=finish_reason,
        error=error,
    )
    return RequestOutput(request_id="r", prompt="a", prompt_token_ids=(1, 2), outputs=[completion])


def test_an_output_in_json_and_in_text() -> None:
    assert json.loads(as_json(made(finish_reason="length"))) == {
        "prompt": "a",
        "text": "b",
        "num_prompt_tokens": 2,
        "num_output_tokens": 3,
        "finish_reason": "length",
    }
    assert as_text(made()) == "=== a\nb\n"


def test_an_output_that_was_cut_says_at_which_limit() -> None:
    cut, full = made(3, "length"), made(6, "length")
    assert describe_cuts([made(), made()], 8) == ""
    assert describe_cuts([cut], 8) == "[cut at --max-tokens 3]"
    assert describe_cuts([full], 8) == "[cut at the context's 8 tokens (--max-model-len)]"
    said = "[3 of 4 are cut: 2 at --max-tokens 3, 1 at the context's 8 tokens (--max-model-len)]"
    assert describe_cuts([cut, made(), full, cut], 8) == said


def test_prompts_that_failed_end_generate_with_their_error() -> None:
    errors = [None, "it has no finite logits", "late"]
    outputs = [made(error=error) for error in errors]
    check_outputs(outputs[:1])
    message = "^error: 2 of 3 prompts failed, first: it has no finite logits$"
    with pytest.raises(SystemExit, match=message):
        check_outputs(outputs)
