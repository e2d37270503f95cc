"""Each HTTP request is one line of the log, with its id, and never with a prompt or a key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from flaxen.protocol import Finish, FinishReason
from tests.server.clients import get, http_client, make_app, post, run
from tests.server.fakes import ERROR, FakeEngine

BODY = {"prompt": "tell nobody", "max_tokens": 4}
CHAT = {"messages": [{"role": "user", "content": "tell nobody"}], "max_tokens": 2}


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flaxen")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of the server's log, as names and values."""
    usual = vars(logging.makeLogRecord({}))
    return [
        {
            "level": record.levelname,
            **(record.args if isinstance(record.args, Mapping) else {}),
            **{name: value for name, value in vars(record).items() if name not in usual},
        }
        for record in caplog.records
        if record.name == "flaxen.server"
    ]


def line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    [only] = lines(caplog)
    return only


def test_a_completion(caplog: pytest.LogCaptureFixture) -> None:
    post(make_app(), "/v1/completions", json=BODY, headers={"x-request-id": "mine"})
    logged = line(caplog)
    assert logged.pop("seconds") >= 0
    assert logged.pop("ttft_s") >= 0
    assert logged.pop("tok_per_s") > 0
    assert logged.pop("message") == "POST /v1/completions 200"
    assert logged == {
        "level": "INFO",
        "method": "POST",
        "path": "/v1/completions",
        "status": 200,
        "model": "fake/model",
        "prompt_tokens": 12,
        "cached_tokens": 1,
        "output_tokens": 4,
        "finish": "length",
        "stream": False,
        "n": 1,
        "request_id": "mine",
    }


def test_a_stream_of_several_answers(caplog: pytest.LogCaptureFixture) -> None:
    finish = Finish(
        reason=FinishReason.STOP,
        num_prompt_tokens=0,
        num_output_tokens=0,
        num_cached_tokens=0,
        queue_s=0,
    )
    app = make_app(FakeEngine(says=lambda request, index: [97] * (9 + index), ends={1: finish}))
    answer = post(app, "/v1/completions", {"prompt": ["a", "b"], "n": 2, "stream": True})
    logged = line(caplog)
    assert logged["stream"] is True
    assert (logged["prompts"], logged["n"], logged["output_tokens"]) == (2, 2, 8)
    assert logged["finish"] == "stop"
    assert logged["request_id"] == answer.headers["x-request-id"]


def test_the_id_of_the_body_is_the_line_s(caplog: pytest.LogCaptureFixture) -> None:
    post(make_app(), "/v1/completions", BODY | {"request_id": "of.the.body"})
    assert line(caplog)["request_id"] == "of.the.body"


def test_no_line_has_a_prompt_or_a_key(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(api_keys=("nobody-knows",))
    key = {"authorization": "Bearer nobody-knows"}
    for path, body in (
        ("/v1/completions", BODY),
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {"prompt": ["tell nobody", 5]}),
        ("/v1/completions", BODY | {"stop": {"tell": "nobody"}}),
        ("/v1/completions", BODY | {"user": {"tell": "nobody"}}),
        ("/v1/chat/completions", {"messages": "tell nobody"}),
        ("/v1/chat/completions", {"messages": [{"role": "tell nobody", "content": "a"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"tell": "nobody"}]}]}),
        ("/tokenize", {"prompt": "tell nobody"}),
    ):
        post(app, path, json=body, headers=key)
    post(app, "/v1/completions", content=b'{"prompt": "nobody', headers=key)
    post(app, "/v1/completions?q=nobody", json=BODY, headers={"authorization": "Bearer nobody"})
    assert len(lines(caplog)) == 11
    assert "nobody" not in str(lines(caplog))


def test_an_error_has_its_code_and_field(caplog: pytest.LogCaptureFixture) -> None:
    post(make_app(), "/v1/completions", BODY | {"temperature": -1})
    post(make_app(), "/v1/completions", BODY | {"max_tokens": 10**6})
    post(make_app(), "/v1/completions", BODY | {"model": "gpt-4"})
    wrong, long, unknown = lines(caplog)
    assert {each["level"] for each in lines(caplog)} == {"INFO"}
    assert (wrong["status"], wrong["code"], wrong["param"]) == (400, "invalid_value", "temperature")
    assert "error" not in wrong  # the message quotes the body
    assert long["code"] == "context_length_exceeded"
    assert "this model's maximum context length is 4096 tokens, and" in long["error"]
    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    assert "'gpt-4' is not served here" in unknown["error"]


def test_a_fault_of_the_server_is_an_error_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    post(make_app(FakeEngine(ends={1: ERROR})), "/v1/completions", BODY)
    post(make_app(FakeEngine(raises=OSError("no disk"))), "/v1/chat/completions", CHAT)
    post(make_app(FakeEngine(raises=OSError("no disk"))), "/v1/completions", BODY)
    first, _, last = lines(caplog)
    assert (first["level"], first["status"], first["code"]) == ("ERROR", 500, "internal_error")
    assert first["finish"] == "error"
    assert "the device is on fire" in first["error"]
    assert last["status"] == 500
    cause = caplog.records[-1].exc_info
    assert cause is not None
    assert str(cause[1]) == "no disk"


def test_an_error_inside_a_stream_is_on_its_line(caplog: pytest.LogCaptureFixture) -> None:
    post(make_app(FakeEngine(ends={2: ERROR})), "/v1/completions", BODY | {"stream": True})
    logged = line(caplog)
    assert (logged["level"], logged["status"], logged["code"]) == ("ERROR", 200, "internal_error")
    assert (logged["output_tokens"], logged["finish"]) == (2, "error")


def test_a_timeout_inside_a_stream_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(FakeEngine(step_s=0.02), request_timeout_s=0.05)
    post(app, "/v1/completions", BODY | {"stream": True, "max_tokens": 100})
    logged = line(caplog)
    assert (logged["level"], logged["status"], logged["code"]) == ("WARNING", 200, "timeout")
    assert logged["finish"] == "timeout"


def test_what_is_refused_while_the_server_ends_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    engine.closed = True
    post(make_app(engine), "/v1/completions", BODY)
    assert (line(caplog)["level"], line(caplog)["code"]) == ("WARNING", "unavailable")


def test_a_client_that_leaves(caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> None:
        async with http_client(make_app(FakeEngine(step_s=0.01))) as client:
            asking = asyncio.create_task(client.post("/v1/completions", json=BODY))
            await asyncio.sleep(0.03)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    run(leave())
    logged = line(caplog)
    assert (logged["status"], logged["finish"]) == ("no answer", "abort")


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_what_is_asked_for_all_the_time_is_not_logged_at_info(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    get(make_app(), path)
    assert line(caplog)["level"] == "DEBUG"
    caplog.clear()
    get(make_app(), "/version")
    assert line(caplog)["level"] == "INFO"


def test_a_path_can_not_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    get(make_app(), "/%0A2026%20INFO%20all%20is%20well" + "x" * 1000)
    message = line(caplog)["message"]
    assert message.startswith(r"GET '/\n2026 INFO all is wellxxx")
    assert "\n" not in message
    assert len(message) < 220
