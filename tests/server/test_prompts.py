"""Where prompts are tokenized: many small ones hold up the other streams as one large one does."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from flaxen.server.config import ServerConfig
from flaxen.server.context import Context
from flaxen.server.metrics import Metrics
from flaxen.server.prompts import read_prompts
from flaxen.text.tokenizer import Tokenizer
from tests.server.clients import run
from tests.server.fakes import FakeEngine


class Recorder:
    """A tokenizer of one token a character; remembers the threads that it ran in."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.threads.append(threading.current_thread())
        return [ord(character) for character in text]


@pytest.mark.parametrize(
    ("prompt", "in_loop"),
    [
        ("a" * 20_000, True),
        ("a" * 20_001, False),
        (["a" * 2000] * 10, True),
        (["a" * 2000] * 9 + ["b" * 2001], False),
    ],
)
def test_long_text_is_tokenized_in_one_thread_of_its_own(prompt: Any, in_loop: bool) -> None:
    tokenizer, engine = Recorder(), FakeEngine()
    context = Context(
        engine=engine,
        tokenizer=cast(Tokenizer, tokenizer),
        chat_template=None,
        config=ServerConfig(),
        metrics=Metrics(engine, "m"),
    )
    prompts = run(read_prompts(prompt, add_special_tokens=True, context=context))
    texts = [prompt] if isinstance(prompt, str) else prompt
    assert [prompt.text for prompt in prompts] == texts
    assert [prompt.token_ids for prompt in prompts] == [tuple(map(ord, text)) for text in texts]
    assert len(set(tokenizer.threads)) == 1
    assert (tokenizer.threads[0] is threading.current_thread()) is in_loop
