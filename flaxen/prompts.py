"""What Python callers give to generate, as requests.

Deliberately does not know: engines, HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxen.protocol import Request, SamplingParams
from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Mapping[str, Any]  # text, token ids, or {"prompt_token_ids": ids}


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A list of prompts from what `generate` takes."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    listed: list[Any] = list(prompts)
    if listed and all(isinstance(item, int) for item in listed):
        return [listed]
    return listed


def make_request(
    tokenizer: Tokenizer, prompt: Prompt, sampling: SamplingParams, request_id: str
) -> Request:
    """A request of text or token ids.

    Raises:
      ValueError: the prompt is empty, or neither text nor token ids.
    """
    if isinstance(prompt, Mapping):
        if set(prompt) not in ({"prompt_token_ids"}, {"prompt"}):
            raise ValueError(
                f"a prompt of keys {sorted(prompt)} is not supported: use 'prompt' or "
                "'prompt_token_ids'"
            )
        (given,) = prompt.values()
    else:
        given = prompt
    ids = tokenizer.encode(given) if isinstance(given, str) else given
    return Request(request_id=request_id, prompt_token_ids=tuple(ids), sampling=sampling)


def model_template(tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template that came with the model."""
    return ChatTemplate(
        tokenizer.chat_template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
    )


def chat_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Mapping[str, Any]],
    **template_variables: Any,
) -> list[int]:
    """The token ids of a conversation.

    Raises:
      ValueError: there is no template, or it refuses the messages.
    """
    text = template.render(list(messages), **template_variables)
    return tokenizer.encode(text, add_special_tokens=False)  # the text already has them
