"""The algorithm knn over HTTP: the request's last text is compared to answered requests."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxen.router.selection.neighbours import Examples
from tests.routing.fakes import FILE, FakeProxy, make_proxy
from tests.routing.test_similar_answers import ANGLES, CHATS, Embedding
from tests.server.clients import post

KNN = "modelRefs: [{model: large}, {model: other}]\n      algorithm: {type: knn}"
GIVEN = "\nglobal: {router: {model_selection: {ml: {knn: {pretrained_path: answered.jsonl}}}}}"


def make(embedding: Embedding) -> FakeProxy:
    embedding.examples = Examples(
        vectors=np.array([[1, 0], [0, 1]], np.float32),
        models=("large", "other"),
        scores=np.ones(2, np.float32),
    )
    before = "modelRefs: [{model: large}, {model: other}]"
    assert before in FILE
    return make_proxy(edit=lambda text: text.replace(before, KNN) + GIVEN, learned=embedding)


def ask(proxy: FakeProxy, *turns: str) -> Any:
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 9, turns, strict=False)
    ]
    return post(proxy.app, CHATS, {"model": "auto", "messages": messages}).headers


def test_the_model_of_the_nearest_answers() -> None:
    embedding = Embedding()
    proxy = make(embedding)
    for text, angle in ANGLES.items():
        expected = "large" if angle < 45 else "other"
        headers = ask(proxy, text)
        assert headers["x-vsr-selected-model"] == expected
        assert headers["x-vsr-selected-algorithm"] == "knn"
    assert ask(proxy, "sum", "3", "sum of all")["x-vsr-selected-model"] == "other"
    assert embedding.texts == [*ANGLES, "sum of all"]
    ask(proxy, "hello")  # no decision, and no comparison
    assert len(embedding.texts) == len(ANGLES) + 1


def test_where_the_encoder_fails_the_first_answers_and_says_so() -> None:
    headers = ask(make(Embedding()), "sum no vector")
    assert headers["x-vsr-selected-model"] == "large"
    assert headers["x-vsr-response-warnings"] == "selection_fallback"
