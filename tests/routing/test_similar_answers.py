"""Answers from the cache to similar requests, over HTTP, with vectors that tests choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from flaxen.router.decisions.tree import SignalKey
from flaxen.router.request import RoutedRequest
from flaxen.router.selection.neighbours import Examples, Vector
from flaxen.router.signals.found import Found
from tests.routing.fakes import FakeProxy, make_proxy, with_plugins
from tests.routing.test_caching import ANSWER, CHATS, num_asked
from tests.server.clients import post

# Degrees between the vectors of questions; cos 10° is 0.985, cos 30° 0.866, cos 40° 0.766.
ANGLES = {"sum": 0, "the sum": 10, "a sum": 30, "sum up": 40, "sum of all": 90}


class Embedding:
    """Finds no signals, and gives texts the vectors of ANGLES."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.examples: Examples | None = None

    async def find(
        self, request: RoutedRequest, wanted: Sequence[tuple[str, str]]
    ) -> Mapping[SignalKey, Found]:
        return {}

    async def vector(self, text: str) -> Vector:
        self.texts.append(text)
        angle = np.deg2rad(ANGLES[text])
        return np.array([np.cos(angle), np.sin(angle)], np.float32)


def make(settings: str = "", embedding: Embedding | None = None) -> FakeProxy:
    plugin = f"{{type: response_cache, configuration: {{scope: global, {settings}}}}}"
    proxy = make_proxy(edit=with_plugins(plugin), learned=embedding or Embedding())
    numbered = [(200, ANSWER | {"id": f"chatcmpl-{i}"}) for i in range(9)]
    proxy.upstreams["large"].answers = list(numbered)
    return proxy


def ask(proxy: FakeProxy, text: Any, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]} | more
    return post(proxy.app, CHATS, body, headers={"x-vsr-debug": "true"} | dict(headers or {}))


@pytest.mark.parametrize("mode", ["semantic", "exact_then_semantic"])
def test_a_similar_request_gets_the_answer_of_the_nearest(mode: str) -> None:
    proxy = make(f"mode: {mode}")
    assert ask(proxy, "sum").json()["id"] == "chatcmpl-0"
    assert ask(proxy, "sum up").json()["id"] == "chatcmpl-1"  # 0.766 is below the store's 0.8
    answer = ask(proxy, "the sum")
    assert (answer.json()["id"], answer.headers["x-vsr-cache-similarity"]) == (
        "chatcmpl-0",
        "0.9848",
    )
    assert ask(proxy, "a sum").json()["id"] == "chatcmpl-1"
    assert ask(proxy, [{"type": "text", "text": "sum of all"}]).json()["id"] == "chatcmpl-2"
    assert num_asked(proxy) == 3


def test_a_decision_says_how_similar() -> None:
    for settings, path in (("0.99", "upstream"), ("0.98", "cache")):
        proxy = make(f"semantic: {{similarity_threshold: {settings}}}")
        ask(proxy, "sum")
        assert ask(proxy, "the sum").headers["x-vsr-response-path"] == path


def test_all_but_the_last_text_must_be_the_same() -> None:
    proxy = make()
    ask(proxy, "sum")
    user = [{"role": "user", "content": "the sum"}]
    others: list[dict[str, Any]] = [
        {"temperature": 0.5},
        {"max_tokens": 5},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": [{"role": "system", "content": "be short"}, *user]},
        {"messages": [*user, {"role": "assistant", "content": "3"}, *user]},
    ]
    for other in others:
        assert ask(proxy, "the sum", **other).headers["x-vsr-response-path"] == "upstream"
    tenant = {"x-authz-tenant-id": "b"}
    assert ask(proxy, "the sum", tenant).headers["x-vsr-response-path"] == "upstream"
    assert ask(proxy, "the sum", stream=True).headers["x-vsr-response-path"] == "cache"


def test_what_is_the_same_or_too_long_is_not_embedded() -> None:
    embedding = Embedding()
    proxy = make(embedding=embedding)
    for text in ("sum", "sum", "sum " * 300, "sum " * 301):
        ask(proxy, text)
    assert (embedding.texts, num_asked(proxy)) == (["sum"], 3)


def test_where_the_encoder_fails_the_same_request_still_hits() -> None:
    proxy = make()
    for text in ("sum no vector", "sum no vector", "sum other"):
        answer = ask(proxy, text)
    assert (answer.status_code, num_asked(proxy)) == (200, 2)
