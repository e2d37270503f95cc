"""vLLM's fields of requests and answers, and the options of the server that stand for some."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flaxen.protocol import Request, TokenEvent, TokenLogprobs
from tests.server.clients import events, make_app, post
from tests.server.fakes import BOS, STOP, FakeEngine

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    COMPLETION: {"prompt": "Hi", "max_tokens": 2},
    CHAT: {"messages": HELLO, "max_tokens": 2},
}
ENGINE = FakeEngine(max_model_len=64)
APP = make_app(ENGINE)


def asked(path: str, **body: Any) -> Request:
    """What the engine is asked for by a body."""
    answer = post(APP, path, GOOD[path] | body)
    assert answer.status_code == 200, answer.text
    return ENGINE.requests[-1]


def error_of(path: str, **body: Any) -> tuple[str, str]:
    answer = post(APP, path, GOOD[path] | body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["message"]


def test_what_was_not_asked_for_is_null() -> None:
    answer = post(APP, CHAT, GOOD[CHAT]).json()
    (choice,) = answer.pop("choices")
    nulls = {"prompt_logprobs", "prompt_token_ids", "kv_transfer_params", "service_tier"}
    assert {key for key, value in answer.items() if value is None} == nulls
    assert choice["token_ids"] is choice["stop_reason"] is choice["logprobs"] is None
    assert answer["system_fingerprint"].startswith("flaxen-")

    answer = post(APP, COMPLETION, GOOD[COMPLETION]).json()
    (choice,) = answer.pop("choices")
    nulls = {"kv_transfer_params", "service_tier"}
    assert {key for key, value in answer.items() if value is None} == nulls
    nulls = {"token_ids", "prompt_token_ids", "prompt_logprobs", "logprobs", "stop_reason"}
    assert {key for key, value in choice.items() if value is None} == nulls


@pytest.mark.parametrize("path", GOOD)
def test_the_priority_reaches_the_engine(path: str) -> None:
    assert asked(path).priority == 0
    assert asked(path, priority=-3.0).priority == -3
    assert error_of(path, priority=False)[0] == "priority"


def test_a_prompt_is_cut_to_its_last_or_first_tokens() -> None:
    assert asked(COMPLETION, prompt="abcdef", truncate_prompt_tokens=2).prompt_token_ids == (
        ord("e"), ord("f"),
    )  # fmt: skip
    first = asked(COMPLETION, prompt="abcdef", truncate_prompt_tokens=2, truncation_side="right")
    assert first.prompt_token_ids == (BOS, ord("a"))
    whole = asked(CHAT).prompt_token_ids
    assert asked(CHAT, truncate_prompt_tokens=5).prompt_token_ids == whole[-5:]
    assert asked(CHAT, truncate_prompt_tokens=60).prompt_token_ids == whole
    both = {"prompt": [[1, 2, 3], [4]], "truncate_prompt_tokens": 2, "echo": True}
    texts = [
        each["text"] for each in post(APP, COMPLETION, GOOD[COMPLETION] | both).json()["choices"]
    ]
    assert texts == ["\x02\x03ab", "\x04ab"]


@pytest.mark.parametrize("max_tokens", [1, 10, None])
def test_minus_1_leaves_room_for_the_answer(max_tokens: int | None) -> None:
    request = asked(COMPLETION, prompt="x" * 100, truncate_prompt_tokens=-1, max_tokens=max_tokens)
    assert len(request.prompt_token_ids) == 64 - (max_tokens or 1)
    assert request.sampling.max_tokens == (max_tokens or 1)


@pytest.mark.parametrize("most", [0, -2, 65])
def test_a_limit_of_the_prompt_out_of_range(most: int) -> None:
    param, message = error_of(COMPLETION, truncate_prompt_tokens=most)
    assert param == "truncate_prompt_tokens"
    assert f"in [1, 64], the model's length, or -1 for what fits, got {most}" in message


def prompt_of(*messages: dict[str, Any], **body: Any) -> str:
    request = asked(CHAT, messages=list(messages), **body)
    return bytes(i if i < 256 else ord("/") for i in request.prompt_token_ids).decode()


@pytest.mark.parametrize(
    ("content", "rendered"),
    [("The ", "The "), ("", ""), (None, ""), ([{"type": "text", "text": "a b"}], "a b")],
)
def test_the_last_message_is_continued(content: Any, rendered: str) -> None:
    last = {"role": "assistant", "content": content}
    said = prompt_of({"role": "user", "content": "Hi"}, last, continue_final_message=True)
    assert said == f"[user]Hi/[assistant]{rendered}"
    # The same for /tokenize, and explicitly without the next turn's header.
    body = {"messages": [last], "continue_final_message": True, "add_generation_prompt": False}
    answer = post(APP, "/tokenize", body).json()
    assert bytes(answer["tokens"]).decode() == f"[assistant]{rendered}"


@pytest.mark.parametrize(
    ("content", "echoed"),
    [("So: ", "So: "), ([{"type": "text", "text": "So: "}], "So: "), (None, "")],
)
def test_the_message_that_an_answer_continues_is_echoed(content: Any, echoed: str) -> None:
    messages = [*HELLO, {"role": "assistant", "content": content}]
    body = GOOD[CHAT] | {"messages": messages, "continue_final_message": True, "echo": True}
    whole = post(APP, CHAT, body).json()["choices"][0]["message"]["content"]
    assert whole == f"{echoed}ab"
    chunks = events(post(APP, CHAT, body | {"stream": True}))[:-1]
    parts = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert "".join(parts) == whole
    mine = post(APP, CHAT, GOOD[CHAT] | {"echo": True}).json()
    assert mine["choices"][0]["message"]["content"] == "ab"  # the last message is the user's


def test_what_a_last_message_is_not_continued_with() -> None:
    param, message = error_of(CHAT, continue_final_message=True, add_generation_prompt=True)
    assert (param, "Cannot set both" in message) == ("continue_final_message", True)
    hidden = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    app = make_app(FakeEngine(), template=hidden)
    body = {
        "messages": [*HELLO, {"role": "assistant", "content": "a"}],
        "continue_final_message": True,
    }
    error = post(app, CHAT, body).json()["error"]
    assert error["param"] == "continue_final_message"
    assert "does not show the text of the last message" in error["message"]


def test_options_of_the_server_stand_for_fields() -> None:
    app = make_app(tokens_as_ids=True, force_usage=True)
    body = GOOD[COMPLETION] | {"logprobs": 0}
    (choice,) = post(app, COMPLETION, body).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["token_id:97", "token_id:98"]
    own = body | {"return_tokens_as_token_ids": False}
    assert post(app, COMPLETION, own).json()["choices"][0]["logprobs"]["tokens"] == ["a", "b"]
    for path in GOOD:
        for options in ({}, {"stream_options": {"include_usage": False}}):
            *chunks, last, done = events(post(app, path, GOOD[path] | {"stream": True} | options))
            assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)
            assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-2:] == [1, 2]
            assert done == "[DONE]"


class _Unlikely(FakeEngine):
    """Samples the third likeliest token."""

    def _event(self, request: Request, *rest: Any) -> TokenEvent:
        event = FakeEngine._event(self, request, *rest)
        token_id = event.token_ids[0]
        top = tuple((ord(name), -0.1 * k) for k, name in enumerate("xyz", start=1))
        scored = TokenLogprobs(token_id=token_id, logprob=-2.0, rank=4, top=top)
        return TokenEvent(
            request_id=event.request_id,
            index=event.index,
            token_ids=event.token_ids,
            text=event.text,
            logprobs=(scored,),
            finish=event.finish,
        )


def test_the_sampled_token_is_the_first_of_the_likeliest() -> None:
    app = make_app(_Unlikely())
    body = GOOD[CHAT] | {"logprobs": True}
    for count, tokens in ((0, []), (1, ["a"]), (3, ["a", "x", "y"])):
        answer = post(app, CHAT, body | {"top_logprobs": count}).json()
        first = answer["choices"][0]["logprobs"]["content"][0]
        assert [top["token"] for top in first["top_logprobs"]] == tokens
    answer = post(app, COMPLETION, GOOD[COMPLETION] | {"logprobs": 2}).json()
    tops = answer["choices"][0]["logprobs"]["top_logprobs"]
    assert [list(top) for top in tops] == [["a", "x", "y"], ["b", "x", "y"]]


def test_the_named_tokens_are_told_in_place_of_the_likeliest() -> None:
    engine = _Unlikely()
    app = make_app(engine)
    named = {"logprob_token_ids": [120, 121, 122]}  # what the engine tells of
    body = GOOD[CHAT] | {"logprobs": True} | named
    first = post(app, CHAT, body).json()["choices"][0]["logprobs"]["content"][0]
    assert engine.requests[-1].sampling.logprob_token_ids == (120, 121, 122)
    assert (first["token"], first["logprob"]) == ("a", -2.0)
    assert [top["token"] for top in first["top_logprobs"]] == ["x", "y", "z"]
    answer = post(app, COMPLETION, GOOD[COMPLETION] | {"logprobs": 0} | named).json()
    assert list(answer["choices"][0]["logprobs"]["top_logprobs"][0]) == ["a", "x", "y", "z"]
    for path in GOOD:
        assert error_of(path, **named)[0] == "logprob_token_ids"  # without logprobs
        wrong = {"logprobs": 1 if path == COMPLETION else True, "logprob_token_ids": [258]}
        assert error_of(path, **wrong)[0] == "logprob_token_ids"


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("JSON", 'JSON {"named_metrics": {"kv_cache_usage_perc": 0.5, "num_requests_waiting": 3}}'),
        (
            "text",
            "TEXT named_metrics.kv_cache_usage_perc=0.5, named_metrics.num_requests_waiting=3",
        ),
        ("BIN", None),
        (None, None),
    ],
)
def test_a_load_balancer_is_told_how_busy_the_server_is(
    form: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    busy = replace(engine.stats(), kv_cache_usage=0.5, num_waiting=3)
    monkeypatch.setattr(engine, "stats", lambda: busy)
    headers = {} if form is None else {"endpoint-load-metrics-format": form}
    for path, body in GOOD.items():
        answer = post(make_app(engine), path, body, headers=headers)
        assert answer.headers.get("endpoint-load-metrics") == told


def test_each_answer_has_the_version_of_its_weights() -> None:
    ends = {0: replace(STOP, weights_version=7)}
    app = make_app(FakeEngine(ends=ends))
    for path in GOOD:
        assert post(app, path, GOOD[path]).json()["weights_version"] == 7
        *chunks, last, _ = events(post(app, path, GOOD[path] | {"stream": True}))
        assert [each.get("weights_version") for each in chunks] == [None] * len(chunks)
        assert last["weights_version"] == 7


def test_prefixes_are_forgotten_in_dev_mode_only() -> None:
    engine = FakeEngine()
    assert post(make_app(engine), "/reset_prefix_cache").status_code == 404
    app = make_app(engine, dev_mode=True)
    answer = post(app, "/reset_prefix_cache")
    assert (answer.status_code, answer.content, engine.num_resets) == (200, b"", 1)
    engine.closed = True
    assert post(app, "/reset_prefix_cache").status_code == 503


class _Filtering(FakeEngine):
    """Keeps half of the probability of each token's distribution."""

    def _event(self, request: Request, *rest: Any) -> TokenEvent:
        event = FakeEngine._event(self, request, *rest)
        kept = tuple(replace(each, kept_mass=0.5) for each in event.logprobs or ())
        return replace(event, logprobs=kept)


def test_the_kept_mass_is_told_where_there_is_one() -> None:
    for engine, masses in ((FakeEngine(), [None] * 2), (_Filtering(), [0.5] * 2)):
        app = make_app(engine)
        body = GOOD[CHAT] | {"logprobs": True}
        content = post(app, CHAT, body).json()["choices"][0]["logprobs"]["content"]
        assert [entry.get("kept_mass") for entry in content] == masses
        whole = post(app, COMPLETION, GOOD[COMPLETION] | {"logprobs": 1}).json()
        logprobs = whole["choices"][0]["logprobs"]
        assert logprobs.get("kept_mass", [None] * 2) == masses
        echoed = post(app, COMPLETION, GOOD[COMPLETION] | {"logprobs": 1, "echo": True}).json()
        logprobs = echoed["choices"][0]["logprobs"]
        assert logprobs.get("kept_mass", [None] * 5) == [None] * 3 + masses
