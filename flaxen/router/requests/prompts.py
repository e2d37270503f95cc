"""Reads the bodies of `/v1/completions` and `/v1/embeddings`, whose prompts are plain texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flaxen.router.request import Message, RoutedRequest
from flaxen.router.requests import fields
from flaxen.router.requests.chat import read_chat
from flaxen.router.requests.fields import Json

TOKENS = "token ids"  # in RoutedRequest.unread: a prompt of numbers has no text to read


def read_completions(body: Json, headers: Mapping[str, str]) -> RoutedRequest:
    """What a router reads of a completion. Several prompts are one text, a line for each.

    Raises:
      ValueError: a field is not of its type; the message names it.
    """
    return _read(body, headers, "completions", "prompt")


def read_embeddings(body: Json, headers: Mapping[str, str]) -> RoutedRequest:
    """What a router reads of texts to embed, which are one text, a line for each, or of a chat to
    embed.

    Raises:
      ValueError: a field is not of its type; the message names it.
    """
    if body.get("input") is None and body.get("messages") is not None:
        return dataclasses.replace(read_chat(body, headers), api="embeddings")
    return _read(body, headers, "embeddings", "input")


def _read(body: Json, headers: Mapping[str, str], api: str, name: str) -> RoutedRequest:
    value = body.get(name)
    prompts = value if isinstance(value, list) else [] if value is None else [value]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    others = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if not all(_is_tokens(prompt) for prompt in others):
        raise ValueError(f"{name} must be texts or lists of token ids, got {others[0]!r:.60}")
    return RoutedRequest(
        api=api,
        model=fields.text_field(body, "model"),
        messages=(Message(role="user", text="\n".join(texts)),) if prompts else (),
        response_format=fields.object_field(body, "response_format"),
        max_tokens=fields.max_tokens(body, "max_tokens"),
        metadata=fields.metadata(body),
        headers=headers,
        user=fields.text_field(body, "user"),
        unread=(TOKENS,) if others else (),
    )


def _is_tokens(prompt: object) -> bool:
    """Whether it is a token id or a list of them."""
    ids = prompt if isinstance(prompt, list) else [prompt]
    return all(isinstance(token, int) and not isinstance(token, bool) for token in ids)
