"""Predicted outputs of a tiny model on disk, asked over HTTP: the plain answers in fewer steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flaxen.build import build
from flaxen.engine import core
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine_args import EngineArgs
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from tests.engine.drafters import Always
from tests.server.clients import post
from tests.test_llm import SIZES, model

__all__ = ["model"]  # the fixture
CHAT = "/v1/chat/completions"
BODY = {
    "messages": [{"role": "user", "content": "one"}],
    "max_tokens": 40,
    "allowed_token_ids": list(range(3, 99)),  # those of a character each
}
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 0.9, "seed": 4, "structured_outputs": {"regex": "[a-z ]{40}"}},
]


class Served:
    """A model behind the server's application."""

    def __init__(self, model: str, speculative_config: dict[str, Any] | None) -> None:
        parts = build(EngineArgs(model=model, speculative_config=speculative_config, **SIZES))
        self.stepped = parts.engine
        self.engine = AsyncEngine(parts.engine)
        self.app = create_app(self.engine, parts.tokenizer, ServerConfig())

    def steps_of(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """How many steps an answer takes, and the answer."""
        before = self.stepped.stats().num_steps
        answer = post(self.app, CHAT, BODY | fields)
        assert answer.status_code == 200, answer.text
        return self.stepped.stats().num_steps - before, answer.json()


@pytest.fixture(scope="module")
def plain(model: str) -> Iterator[Served]:
    served = Served(model, None)
    with served.engine:
        yield served


@pytest.mark.parametrize("method", ["ngram", "suffix"])
def test_answers_are_the_plain_ones_in_fewer_steps(
    model: str, plain: Served, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "Payoff", Always)
    served = Served(model, {"method": method, "num_speculative_tokens": 7})
    with served.engine:
        for sampling in SAMPLING:
            most, expected = plain.steps_of(**sampling)
            text = expected["choices"][0]["message"]["content"]
            predictions = {"right": text, "wrong": "~" * 60, "edited": text[:9] + "~" + text[10:]}
            steps, counts = {}, {}
            for name, each in predictions.items():
                prediction = {"type": "content", "content": each}
                steps[name], got = served.steps_of(**sampling, prediction=prediction)
                assert got["choices"] == expected["choices"]
                counts[name] = got["usage"]["completion_tokens_details"]
            assert steps["right"] < 15
            assert steps["right"] <= steps["edited"] < most >= 40
            assert counts["right"]["accepted_prediction_tokens"] >= 30
            assert counts["right"]["rejected_prediction_tokens"] == 0
            assert counts["wrong"]["accepted_prediction_tokens"] == 0


def test_one_that_is_longer_than_the_model_takes_is_refused(model: str) -> None:
    served = Served(model, {"method": "ngram"})
    with served.engine:
        body = BODY | {"prediction": {"type": "content", "content": "a" * 65}}
        answer = post(served.app, CHAT, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "prediction"
    assert "has 65 tokens, and the model takes 64: shorten it" in error["message"]


def test_plain_servers_and_those_with_a_draft_model_refuse_it(model: str, plain: Served) -> None:
    drafting = Served(model, {"model": model, "quantization": "int8"})
    with drafting.engine:
        for served in (plain, drafting):
            body = BODY | {"prediction": {"type": "content", "content": "a"}}
            answer = post(served.app, CHAT, body)
            assert answer.status_code == 400
            assert (
                """--speculative-config '{"method": "ngram"}'"""
                in answer.json()["error"]["message"]
            )
