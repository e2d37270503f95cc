"""Answers of `flaxen chat` from an engine in this process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flaxen.cli.chat.http import AnswerError
from flaxen.cli.chat.local import local_answer
from flaxen.protocol import SamplingParams
from tests.engine.fakes import SMALL, FakeExecutor, FaultyExecutor, fake_engine
from tests.engine.groups import full
from tests.server.fakes import byte_tokenizer


def test_an_answer_that_fails_says_why_and_the_next_one_runs() -> None:
    config = replace(SMALL, groups=full(64))
    executor = FaultyExecutor(FakeExecutor(config), lambda *call: call == ("fetch", 3))
    tokenizer = byte_tokenizer()
    answer = local_answer(
        fake_engine(config, executor, tokenizer),
        tokenizer,
        SamplingParams(max_tokens=4, ignore_eos=True),
    )
    chat = [{"role": "user", "content": "a"}]
    with pytest.raises(AnswerError, match=r"the engine failed: .*the device is on fire"):
        list(answer(chat))
    assert "".join(answer(chat)) == "^_`a"  # the prompt ends with "]", and each token is one more
