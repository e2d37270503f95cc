"""Probes: requests with the decisions that they should get, in the public reference's format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from flaxen.router.request import RoutedRequest
from flaxen.router.requests.readers import read_request

_ABOUT_TOOLS = ("tools", "tool_choice")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One request, and what decides it.

    Attributes:
      name: the probe's and the variant's id.
      recipe, decision: what is expected; decision "" where none should match.
    """

    name: str
    recipe: str
    decision: str
    request: RoutedRequest


def read_probes(text: str) -> Iterator[Probe]:
    """The variants of a file of probes, in their order.

    Raises:
      ValueError: the file is not in the format; the message names the variant.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    file = yaml.load(text, Loader=loader)
    if not isinstance(file, Mapping) or not isinstance(file.get("decisions"), list):
        raise ValueError("a file of probes has a list `decisions`, each with an id and variants")
    images = (file.get("fixtures") or {}).get("images", {})
    for decision in file["decisions"]:
        for variant in decision.get("variants", ()):
            name = f"{decision.get('id')}/{variant.get('id')}"
            try:
                request = read_request("chat", body_of(variant, images))
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                raise ValueError(f"the variant {name} can't be read: {error!r}") from error
            yield Probe(
                name=name,
                recipe=decision.get("expected_recipe") or "default",
                decision=decision.get("expected_decision") or "",
                request=request,
            )


def body_of(variant: Mapping[str, Any], images: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat that a variant stands for.

    Raises:
      KeyError, TypeError, IndexError, AttributeError, ValueError: it is not in the format.
    """
    if ("query" in variant) == ("messages" in variant):
        raise ValueError("it must have a query or messages, one of them")
    messages = variant.get("messages") or [{"role": "user", "content": _query(variant)}]
    messages = [dict(each, content=_content(each.get("content"), images)) for each in messages]
    if generated := variant.get("generated_text"):
        _generate(generated, messages[generated["message_index"]]["content"])
    about_tools = {key: variant[key] for key in _ABOUT_TOOLS if key in variant}
    return {"model": "auto", "messages": messages, **about_tools}


def _query(variant: Mapping[str, Any]) -> str:
    """The query, repeated and within its padding, in lines."""
    query = "\n".join([variant["query"]] * int(variant.get("repeat", 1)))
    if padding := variant.get("padding"):
        lines = [padding["text"]] * padding["repeat"]
        half = len(lines) // 2
        before = {"before": len(lines), "after": 0}.get(padding["placement"], half)
        query = "\n".join([*lines[:before], query, *lines[before:]])
    return query


def _content(content: Any, images: Mapping[str, Any]) -> Any:
    """A content whose images of the file are data URLs."""
    if not isinstance(content, list):
        return content
    return [
        {"type": "image_url", "image_url": {"url": _data_url(images[part["fixture"]])}}
        if part.get("type") == "image_fixture"
        else part
        for part in content
    ]


def _data_url(image: Mapping[str, str]) -> str:
    return f"data:{image['media_type']};base64,{''.join(image['data_base64'].split())}"


def _generate(generated: Mapping[str, Any], parts: list[Any]) -> None:
    """Inserts a text of which all parts together have so many bytes."""
    num_there = sum(len(part.get("text", "").encode()) for part in parts)
    missing = generated["target_text_bytes"] - num_there
    unit = generated.get("text") or generated.get("character") or "x"
    text = (unit * (missing // len(unit.encode()) + 1)).encode()[:missing].decode("utf-8")
    parts.insert(generated["content_index"], {"type": "text", "text": text})
