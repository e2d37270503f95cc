"""A model's own sampling defaults count where a request does not say, on both routes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.protocol import SamplingParams
from tests.server.clients import make_app, post
from tests.server.fakes import VOCAB_SIZE, FakeEngine

DEFAULTS = {
    "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "max_tokens": 5,
}  # fmt: skip
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ROUTES = [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "Hi"})]


def sampling_of(path: str, body: dict[str, Any], defaults: dict[str, Any]) -> SamplingParams:
    engine = FakeEngine()
    engine.info = replace(engine.info, default_sampling=defaults)
    assert post(make_app(engine), path, body).status_code == 200
    return engine.requests[0].sampling


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_what_a_request_does_not_say(path: str, body: dict[str, Any]) -> None:
    # null is "not given"
    found = sampling_of(path, {**body, "temperature": None, "max_tokens": None}, DEFAULTS)
    assert found == SamplingParams(**DEFAULTS)


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_what_a_request_says_wins(path: str, body: dict[str, Any]) -> None:
    said: dict[str, Any] = {
        "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.5, "repetition_penalty": 1.0,
        "max_tokens": 7,
    }  # fmt: skip
    assert sampling_of(path, {**body, **said}, DEFAULTS) == SamplingParams(**said)


def test_completions_that_leave_max_tokens_out_have_openais_16() -> None:
    path, body = ROUTES[1]
    assert sampling_of(path, body, DEFAULTS).max_tokens == 16


def test_a_default_beyond_the_model_is_cut() -> None:
    found = sampling_of("/v1/chat/completions", CHAT, {"max_tokens": 10**9, "top_k": 10**9})
    plain = sampling_of("/v1/chat/completions", CHAT, {})
    assert found == replace(plain, top_k=VOCAB_SIZE)
