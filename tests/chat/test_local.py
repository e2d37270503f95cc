"""Answers of `flaxen chat` from an engine in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from flaxen.chat.answers import Answer, AnswerError, Cut, Ending, Message
from flaxen.chat.local import local_answer
from tests.engine.fakes import SMALL, FakeExecutor, FaultyExecutor, fake_engine
from tests.scheduling.groups import full
from tests.server.fakes import byte_tokenizer

CONFIG = replace(SMALL, groups=full(64))
DEFAULTS = {"max_tokens": 4, "ignore_eos": True}
CHAT: list[Message] = [{"role": "user", "content": "a"}]  # the fake template writes "[user]a..."


def made(executor: Any = None) -> Answer:
    tokenizer = byte_tokenizer()
    engine = fake_engine(CONFIG, executor or FakeExecutor(CONFIG), tokenizer)
    return local_answer(engine, tokenizer, DEFAULTS)


def ask(answer: Answer, messages: Sequence[Message], **sampling: Any) -> tuple[str, Ending]:
    *pieces, ending = answer(messages, sampling)
    assert isinstance(ending, Ending)
    return "".join(map(str, pieces)), ending


def test_an_answer_that_fails_says_why_and_the_next_one_runs() -> None:
    answer = made(FaultyExecutor(FakeExecutor(CONFIG), lambda *call: call == ("fetch", 3)))
    with pytest.raises(AnswerError, match=r"the engine failed: .*the device is on fire"):
        list(answer(CHAT, {}))
    # The prompt ends with "]", and each token is one more.
    assert ask(answer, CHAT)[0] == "^_`a"


def test_a_cut_answer_names_its_limit_and_is_continued() -> None:
    answer = made()
    text, ending = ask(answer, CHAT, max_tokens=2)
    assert text == "^_"
    assert ending.cut == Cut(limit="--max-tokens 2", can_continue=True, can_raise=True)
    assert ending.num_output_tokens == 2
    begun = [*CHAT, {"role": "assistant", "content": text}]
    more, rest = ask(answer, begun, max_tokens=2)
    assert text + more == ask(answer, CHAT)[0]
    assert rest.num_prompt_tokens == (ending.num_prompt_tokens or 0) + 2


def test_an_answer_that_fills_the_context_says_so() -> None:
    _, ending = ask(made(), CHAT, max_tokens=None)
    limit = f"the context's {CONFIG.max_model_len} tokens"
    assert ending.cut == Cut(limit=limit, can_continue=False, can_raise=False)


def test_a_model_without_a_template_says_what_to_do() -> None:
    tokenizer = byte_tokenizer(chat_template=None)
    engine = fake_engine(CONFIG, FakeExecutor(CONFIG), tokenizer)
    message = (
        r"no chat template.*\. In flaxen chat that is --chat-template FILE, or Jinja in one line, "
        r"as --chat-template '.*assistant:' --stop 'user:'\. flaxen generate MODEL -p"
    )
    with pytest.raises(ValueError, match=message):
        local_answer(engine, tokenizer, DEFAULTS)
