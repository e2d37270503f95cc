"""When the engine is full, closed, slow or broken: statuses, and events after a stream began."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.protocol import FinishReason, UnknownAdapterError
from tests.server.clients import events, get, make_app, post
from tests.server.fakes import ERROR, STOP, FakeEngine

PATHS = {
    "/v1/completions": {"prompt": "a", "max_tokens": 8},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8},
}
both = pytest.mark.parametrize("path", PATHS)


def ask(app: Any, path: str, **more: Any) -> Any:
    return post(app, path, PATHS[path] | more)


def last_error(response: Any) -> dict[str, Any]:
    """The error that a stream ended with."""
    assert response.status_code == 200
    *_, error, done = events(response)
    assert done == "[DONE]"
    described: dict[str, Any] = error["error"]
    return described


@both
@pytest.mark.parametrize("streamed", [False, True])
def test_a_full_queue_is_429(path: str, streamed: bool) -> None:
    answer = ask(make_app(FakeEngine(max_waiting=0)), path, stream=streamed)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "queue_full"
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_all_prompts_are_queued_or_none() -> None:
    engine = FakeEngine(max_waiting=2)
    answer = post(make_app(engine), "/v1/completions", {"prompt": ["a", "b", "c"]})
    assert answer.status_code == 429
    assert engine.aborted == [request.request_id for request in engine.requests]
    assert len(engine.aborted) == 2


@both
@pytest.mark.parametrize("streamed", [False, True])
def test_a_closed_engine_is_503(path: str, streamed: bool) -> None:
    engine = FakeEngine()
    engine.closed = True
    answer = ask(make_app(engine), path, stream=streamed)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "unavailable"
    health = get(make_app(engine), "/health")
    assert health.status_code == 503
    assert "takes no more requests" in health.json()["error"]["message"]
    assert get(make_app(engine), "/metrics").status_code == 200


@both
@pytest.mark.parametrize("fault", [{"ends": {2: ERROR}}, {"raises": OSError("secret")}])
def test_a_broken_engine_is_500_and_tells_nothing(
    path: str, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(make_app(FakeEngine(**fault)), path)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert answer.json()["error"]["type"] == "server_error"
    streamed = ask(make_app(FakeEngine(**fault)), path, stream=True)
    assert last_error(streamed)["code"] == "internal_error"
    assert "secret" not in answer.text + streamed.text
    logged = [str((getattr(line, "error", None), line.exc_info)) for line in caplog.records]
    assert len(logged) == 2
    assert all("secret" in text for text in logged)
    text = "".join(
        choice.get("text") or choice.get("delta", {}).get("content") or ""
        for event in events(streamed)[:-2]
        for choice in event["choices"]
    )
    assert text == "ab"


@both
def test_a_timeout_is_504(path: str) -> None:
    engine = FakeEngine(step_s=0.03)
    app = make_app(engine, request_timeout_s=0.1)
    answer = ask(app, path, max_tokens=100)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"
    assert "within 0.1 seconds" in answer.json()["error"]["message"]
    assert last_error(ask(app, path, max_tokens=100, stream=True))["code"] == "timeout"
    assert engine.open == set()


@both
@pytest.mark.parametrize(
    ("reason", "status", "code", "label"),
    [
        (FinishReason.ABORT, 503, "aborted", "abort"),
        (FinishReason.TIMEOUT, 504, "timeout", "abort"),
        (FinishReason.IMPOSSIBLE, 400, "invalid_value", "error"),
        (FinishReason.ERROR, 500, "internal_error", "error"),
    ],
)
def test_an_early_end_is_told_by_its_reason_alone(
    path: str, reason: FinishReason, status: int, code: str, label: str
) -> None:
    """No word of the engine and no clock decides: the time has not run out here."""
    app = make_app(FakeEngine(ends={2: replace(STOP, reason=reason, error="it took too long")}))
    answer = ask(app, path, n=2)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert last_error(ask(app, path, n=2, stream=True))["code"] == code
    page = get(app, "/metrics").text
    assert f'request_success_total{{finished_reason="{label}"' in page.replace("flaxen:", "")
    assert 'finished_reason="timeout"' not in page


@both
def test_an_adapter_that_went_before_the_engine_took_the_request_is_404(path: str) -> None:
    app = make_app(FakeEngine(raises=UnknownAdapterError("there is no adapter")))
    answer = ask(app, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "removed since the request came" in answer.json()["error"]["message"]
    assert last_error(ask(app, path, stream=True))["param"] == "model"


def test_one_failed_prompt_ends_the_others() -> None:
    engine = FakeEngine(raises=OSError("one"))
    answer = post(make_app(engine), "/v1/completions", {"prompt": ["a", "b"], "max_tokens": 8})
    assert answer.status_code == 500
    assert engine.open == set()
    assert len(engine.ended) == 2


def test_a_stream_that_ends_without_its_end_is_500(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(says=lambda request, index: [97] * 100)
    answer = post(make_app(engine), "/v1/completions", {"prompt": "a", "max_tokens": 200})
    assert answer.status_code == 500
    [line] = caplog.records
    assert "without finishing" in vars(line)["error"]
