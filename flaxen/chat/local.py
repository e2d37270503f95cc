"""Chat answers from an engine in this process. Deliberately does not know the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from flaxen.chat.answers import Answer, AnswerError, Cut, Ending, Message
from flaxen.engine.one_request import run_request
from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import Finish, FinishReason, Request, SamplingParams
from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer

# A conversation for a model without a template of its own; the option --stop ends its turns.
_PLAIN = (
    '--chat-template \'{% for m in messages %}{{ m.role }}: {{ m.content }}{{ "\\n" }}{% endfor %}'
    "assistant:' --stop 'user:'"
)


def local_answer(
    engine: SteppedEngine,
    tokenizer: Tokenizer,
    defaults: Mapping[str, Any],
    adapter: str | None = None,
) -> Answer:
    """Returns a function that gets answers from an engine; past turns stay in the prefix cache.

    The function raises AnswerError if the engine fails during an answer, and ValueError if the
    engine can't serve the conversation.

    Args:
      engine: idle.
      tokenizer: its model's.
      defaults: the sampling parameters that a conversation does not set.
      adapter: the name of a loaded adapter; None is the base model.

    Raises:
      ValueError: the model has no chat template.
    """
    template = ChatTemplate.of(tokenizer)
    if template.missing:
        raise ValueError(
            f"{template.missing}. In flaxen chat that is --chat-template FILE, or Jinja in one "
            f"line, as {_PLAIN}. flaxen generate MODEL -p 'Once upon a time' continues a text"
        )
    request_ids = map("chat-{}".format, itertools.count())

    def answer(
        messages: Sequence[Message], sampling: Mapping[str, Any]
    ) -> Generator[str | Ending, None, None]:
        request = Request(
            request_id=next(request_ids),
            prompt_token_ids=_prompt(template, tokenizer, messages),
            sampling=SamplingParams(**{**defaults, **sampling}),
            adapter=adapter,
        )
        with closing(run_request(engine, request)) as steps:
            for events in steps:
                yield "".join(event.text for event in events)
                for event in events:
                    if event.finish is not None:
                        yield _ending(event.finish, engine.info.max_model_len)

    return answer


def _prompt(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[int, ...]:
    begun = ""
    if messages[-1]["role"] == "assistant":
        *messages, last = messages
        begun = last["content"]
    text = template.render(messages, add_generation_prompt=True) + begun
    # The template has already written the special tokens.
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _ending(finish: Finish, max_model_len: int) -> Ending:
    if not finish.reason.is_complete:
        raise AnswerError(f"the engine failed: {finish.error}")
    cut = None
    if finish.reason is FinishReason.LENGTH:
        is_full = finish.num_prompt_tokens + finish.num_output_tokens >= max_model_len
        cut = Cut(
            limit=f"the context's {max_model_len} tokens"
            if is_full
            else f"--max-tokens {finish.num_output_tokens}",
            can_continue=not is_full,
            can_raise=not is_full,
        )
    return Ending(
        cut=cut,
        num_prompt_tokens=finish.num_prompt_tokens,
        num_cached_tokens=finish.num_cached_tokens,
        num_output_tokens=finish.num_output_tokens,
    )
