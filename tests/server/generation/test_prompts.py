"""Where prompts are tokenized: many small ones hold up the other streams as one large one does."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from flaxen.server.config import ServerConfig
from flaxen.server.context import Context
from flaxen.server.errors import ApiError
from flaxen.server.generation.prompts import read_prompts
from flaxen.server.metrics import Metrics
from flaxen.structured import GrammarCompiler
from flaxen.text.tokenizer import Tokenizer
from tests.server.clients import run
from tests.server.fakes import FakeEngine


class Recorder:
    """A tokenizer of one token a character; remembers the threads that it ran in."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()  # before which no huge text is done
        self.gate.set()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.threads.append(threading.current_thread())
        assert len(text) <= 400_000 or self.gate.wait(20)
        return [ord(character) for character in text]


def context_of(tokenizer: Any) -> Context:
    engine = FakeEngine()
    return Context(
        engine=engine,
        tokenizer=cast(Tokenizer, tokenizer),
        chat_template=None,
        config=ServerConfig(),
        metrics=Metrics(engine, "m"),
        grammars=GrammarCompiler(cast(Tokenizer, tokenizer), 1, (0,)),
    )


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
    tokenizer = Recorder()
    context = context_of(tokenizer)
    prompts = run(read_prompts(prompt, add_special_tokens=True, context=context))
    texts = [prompt] if isinstance(prompt, str) else prompt
    assert [prompt.text for prompt in prompts] == texts
    assert [prompt.token_ids for prompt in prompts] == [tuple(map(ord, text)) for text in texts]
    assert len(set(tokenizer.threads)) == 1
    assert (tokenizer.threads[0] is threading.current_thread()) is in_loop


def test_texts_that_take_seconds_hold_up_no_others() -> None:
    tokenizer = Recorder()
    context = context_of(tokenizer)
    tokenizer.gate.clear()

    async def read(prompt: Any) -> int:
        prompts = await read_prompts(prompt, add_special_tokens=True, context=context)
        return sum(len(each.token_ids) for each in prompts)

    async def work() -> None:
        huge = [asyncio.create_task(read("a" * 400_001)) for _ in range(9)]
        await asyncio.sleep(0)
        # In all, as the texts of one request are tokenized in one go.
        with pytest.raises(ApiError, match="too many requests wait for the tokenizer: 9 do"):
            await read(["a" * 200_000, "b" * 200_001])
        assert await asyncio.gather(*(read("a" * 400_000) for _ in range(5))) == [400_000] * 5
        assert not any(task.done() for task in huge)
        tokenizer.gate.set()
        assert await asyncio.gather(*huge) == [400_001] * 9

    run(work())
