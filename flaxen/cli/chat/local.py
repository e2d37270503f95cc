"""Chat answers from an engine in this process. Deliberately does not know the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from contextlib import closing

from flaxen.cli.chat.http import Answer, AnswerError, Message
from flaxen.cli.one_request import run_request
from flaxen.engine.core import Engine
from flaxen.protocol import Request, SamplingParams
from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer


def local_answer(
    engine: Engine, tokenizer: Tokenizer, sampling: SamplingParams, adapter: str | None = None
) -> Answer:
    """Returns a function that gets answers from an engine; past turns stay in the prefix cache.

    The function raises AnswerError if the engine fails during an answer.

    Raises:
      ValueError: the model has no chat template.
    """
    template = ChatTemplate.of(tokenizer)
    if template.missing:
        raise ValueError(template.missing)
    request_ids = map("chat-{}".format, itertools.count())

    def answer(messages: Sequence[Message]) -> Generator[str, None, None]:
        text = template.render(messages, add_generation_prompt=True)
        # The template has already written the special tokens.
        prompt = tuple(tokenizer.encode(text, add_special_tokens=False))
        request = Request(
            request_id=next(request_ids),
            prompt_token_ids=prompt,
            sampling=sampling,
            adapter=adapter,
        )
        with closing(run_request(engine, request)) as events:
            for event in events:
                if event.text:
                    yield event.text
                if event.finish is not None and not event.finish.reason.is_complete:
                    raise AnswerError(f"the engine failed: {event.finish.error}")

    return answer
