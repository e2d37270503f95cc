"""The readers of all APIs, by the name of the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flaxen.router.request import RoutedRequest
from flaxen.router.requests import fields
from flaxen.router.requests.chat import read_chat
from flaxen.router.requests.fields import Json
from flaxen.router.requests.messages import read_messages
from flaxen.router.requests.prompts import read_completions, read_embeddings
from flaxen.router.requests.responses import read_responses

READERS: Mapping[str, Callable[[Json, Mapping[str, str]], RoutedRequest]] = {
    "chat": read_chat,
    "completions": read_completions,
    "responses": read_responses,
    "messages": read_messages,
    "embeddings": read_embeddings,
}
# What a decision may change beside the texts, by the API.
_OBJECTS = {
    "chat": ("chat_template_kwargs",),
    "responses": ("chat_template_kwargs", "reasoning"),
}
_NUMBERS = {"chat": "top_logprobs", "completions": "logprobs"}


def read_request(api: str, body: Json, headers: Mapping[str, str] | None = None) -> RoutedRequest:
    """What a router reads of a request.

    Args:
      api: one of READERS.
      body: its JSON, unchanged afterwards.
      headers: its HTTP headers, with names in any case.

    Raises:
      ValueError: a field is not of its type, so that the request can't be classified. The sentence
        is for the client.
    """
    for name in _OBJECTS.get(api, ()):
        fields.object_field(body, name)
    if api in _NUMBERS and not isinstance(body.get(_NUMBERS[api]), int | None):
        raise ValueError(f"{_NUMBERS[api]} must be a whole number, got {body[_NUMBERS[api]]!r:.60}")
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    return READERS[api](body, lower)
