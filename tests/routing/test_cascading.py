"""The algorithm confidence over HTTP: a small model is asked first, another if that is unsure."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.routing.fakes import FILE, FakeProxy, broken, make_proxy, metric
from tests.routing.test_caching import content_of
from tests.server.clients import post

CHATS, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
MODELS = "modelRefs: [{model: large}, {model: other}]"
CARDS = "  modelCards: [{name: large, param_size: 70B}, {name: other, param_size: 0.5b}]\n  signals"


def make(settings: str = "threshold: 0.5", refs: str = MODELS) -> FakeProxy:
    """A router whose decision asks `other`, which is small, before `large`."""
    algorithm = f"algorithm: {{type: confidence, confidence: {{{settings}}}}}"

    def edit(text: str) -> str:
        assert MODELS in text
        text = text.replace(MODELS, f"{refs}\n      {algorithm}")
        return text.replace("  signals", CARDS)

    proxy = make_proxy(edit=edit)
    proxy.upstreams["other"].answers = [(200, chat("2", -2.4))]
    proxy.upstreams["large"].answers = [(200, chat("3", -0.3))]
    return proxy


def chat(text: str, *logprobs: float, second: float | None = None) -> dict[str, Any]:
    """A chat's answer of tokens with these log-probabilities."""
    runner_up = [] if second is None else [{"token": "?", "logprob": second}]
    tokens: list[Any] = [
        {"token": text, "logprob": p, "top_logprobs": [{"token": text, "logprob": p}, *runner_up]}
        for p in logprobs
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "logprobs": {"content": tokens} if tokens else None,
    }
    shared = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return shared | {"choices": [choice], "usage": {"total_tokens": 2}}


def stream(text: str, logprob: float) -> list[bytes]:
    """The same as a stream of two chunks."""
    token = {"token": text, "logprob": logprob, "top_logprobs": []}
    shared = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    end = {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    chunks = [
        shared | {"choices": [each]} for each in (said | {"logprobs": {"content": [token]}}, end)
    ]
    return [f"data: {json.dumps(each)}\n\n".encode() for each in chunks] + [b"data: [DONE]\n\n"]


def asked(proxy: FakeProxy) -> list[int]:
    """How often the small and the large model were asked."""
    return [len(proxy.upstreams[name].calls) for name in ("other", "large")]


def content(answer: Any) -> str:
    found: str = answer.json()["choices"][0]["message"]["content"]
    return found


def test_an_unsure_answer_is_replaced_by_that_of_the_next() -> None:
    proxy = make()
    answer = post(proxy.app, CHATS, SUM)
    expected = chat("3", -0.3)
    expected["choices"][0]["logprobs"] = None  # the client asks for none
    assert (answer.json(), asked(proxy)) == (expected, [1, 1])
    told = {
        "x-vsr-selected-model": "large",
        "x-vsr-selected-algorithm": "confidence",
        "x-vsr-looper-models-used": "other,large",
        "x-own": "kept",
    }
    assert {name: answer.headers[name] for name in told} == told
    assert "x-vsr-response-warnings" not in answer.headers
    sent = proxy.upstreams["other"].bodies[0]
    assert sent == SUM | {"model": "org/other-7b", "logprobs": True}
    escalations = 'llm_model_escalations_total{decision="math",model="other"}'
    assert metric(proxy, escalations) == 1


def test_a_sure_answer_is_the_only_one() -> None:
    """An average of -2.4 is a confidence of 0.2."""
    proxy = make("threshold: 0.2")
    answer = post(proxy.app, CHATS, SUM)
    assert (content(answer), asked(proxy)) == ("2", [1, 0])
    assert "x-vsr-looper-models-used" not in answer.headers


def test_the_last_answer_is_taken_as_it_is() -> None:
    proxy = make("threshold: 1")
    assert content(post(proxy.app, CHATS, SUM)) == "3"
    proxy.upstreams["large"].answers = [broken()]
    answer = post(proxy.app, CHATS, SUM)
    assert (content(answer), answer.headers["x-vsr-selected-model"]) == ("2", "other")


@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_a_stream_is_collected_and_sent_as_a_stream(threshold: float) -> None:
    proxy = make(f"threshold: {threshold}")
    proxy.upstreams["other"].answers = [stream("2", -2.4)]
    proxy.upstreams["large"].answers = [stream("3", -0.3)]
    answer = post(proxy.app, CHATS, SUM | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert content_of(answer) == ["2" if threshold == 0.2 else "3"]
    assert "logprob" not in answer.text.replace('"logprobs":null', "")
    assert proxy.upstreams["other"].bodies[0]["stream"] is True


def test_margins_need_the_runner_up_and_clients_get_what_they_ask_for() -> None:
    margin = 3 * math.log(2)  # a confidence of 0.5
    for gap, expected in ((margin + 0.01, "2"), (margin - 0.01, "3")):
        proxy = make("confidence_method: margin")
        proxy.upstreams["other"].answers = [(200, chat("2", -0.1, second=-0.1 - gap))]
        answer = post(proxy.app, CHATS, SUM | {"logprobs": True, "top_logprobs": 1})
        assert content(answer) == expected
        assert proxy.upstreams["other"].bodies[0]["top_logprobs"] == 2
        (token,) = answer.json()["choices"][0]["logprobs"]["content"]
        assert [each["token"] for each in token["top_logprobs"]] == [expected]


def test_completions_have_a_form_of_their_own() -> None:
    def answer(text: str, logprob: float) -> dict[str, Any]:
        told = {
            "tokens": [text],
            "token_logprobs": [logprob],
            "top_logprobs": [{text: logprob, "?": logprob - 9, "!": logprob - 10}],
            "text_offset": [0],
        }
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": told}
        return {"id": "cmpl-1", "object": "text_completion", "choices": [choice], "usage": {}}

    proxy = make("confidence_method: hybrid, threshold: 0.9")
    proxy.upstreams["other"].answers = [(200, answer("2", -2.4))]
    proxy.upstreams["large"].answers = [(200, answer("3", -0.1))]
    body = {"model": "auto", "prompt": "the sum is"}
    for more, tops in (({}, None), ({"logprobs": 1}, [{"3": -0.1}])):
        (choice,) = post(proxy.app, COMPLETIONS, body | more).json()["choices"]
        assert (choice["text"], (choice["logprobs"] or {}).get("top_logprobs")) == ("3", tops)
        assert proxy.upstreams["large"].bodies[-1]["logprobs"] == 2
    answer_ = post(proxy.app, COMPLETIONS, body | {"echo": True})  # those of the prompt are no help
    assert answer_.json()["choices"][0]["text"] == "3"


@pytest.mark.parametrize(
    "first",
    [
        (200, chat("2")),  # no log-probabilities
        (200, chat("2") | {"choices": [chat("2")["choices"][0] | {"logprobs": {"content": [1]}}]}),
        (400, {"error": {"message": "logprobs are not supported"}}),
        [stream("2", -0.1)[0], broken()],
        (200, {"text": "no chat"}),
    ],
)
def test_where_the_confidence_is_not_known_the_next_is_asked_or_the_request_fails(
    first: Any,
) -> None:
    proxy = make()
    proxy.upstreams["other"].answers = [first]
    assert (content(post(proxy.app, CHATS, SUM)), asked(proxy)) == ("3", [1, 1])
    proxy = make("threshold: 0.5, on_error: fail")
    proxy.upstreams["other"].answers = [first]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, asked(proxy)) == (502, [1, 0])
    assert "its confidence is not known, and on_error is fail" in answer.json()["error"]["message"]


def test_an_error_of_all_models_is_passed_on() -> None:
    proxy = make()
    for name in ("other", "large"):
        proxy.upstreams[name].answers = [(400, {"error": {"message": f"no, says {name}"}})]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no, says other")
    for name in ("other", "large"):
        proxy.upstreams[name].answers = [(200, {"text": "no chat"})]
    answer = post(proxy.app, CHATS, SUM)
    assert (answer.status_code, asked(proxy)) == (503, [2, 2])
    assert "the answer did not come to its end" in answer.json()["error"]["message"]
    proxy.upstreams["large"].answers = [(200, chat("3"))]
    assert content(post(proxy.app, CHATS, SUM)) == "3"


def test_an_answer_may_be_too_long() -> None:
    proxy = make("threshold: 0.5, max_response_bytes: 2000")
    proxy.upstreams["other"].answers = [(200, chat("2" * 3000, -0.1))]
    assert content(post(proxy.app, CHATS, SUM)) == "3"


def test_a_model_that_fails_is_no_step_of_the_cascade() -> None:
    proxy = make()
    proxy.upstreams["other"].answers = [broken()]
    answer = post(proxy.app, CHATS, SUM)
    assert (content(answer), answer.headers["x-vsr-response-warnings"]) == ("3", "failover")
    assert "x-vsr-looper-models-used" not in answer.headers


def test_one_model_may_think_again() -> None:
    qwen = '{name: large, reasoning: {family: qwen3}, backend_refs: [{endpoint: "large:1"}]}'
    own = '{name: large, backend_refs: [{endpoint: "large:1"}]}'
    refs = "modelRefs: [{model: large}, {model: large, use_reasoning: true}]"
    algorithm = "algorithm: {type: confidence, confidence: {threshold: 0.5}}"
    assert own in FILE
    proxy = make_proxy(
        edit=lambda text: text.replace(own, qwen).replace(MODELS, f"{refs}\n      {algorithm}")
    )
    proxy.upstreams["large"].answers = [(200, chat("2", -2.4)), (200, chat("3", -0.3))]
    answer = post(proxy.app, CHATS, SUM)
    assert (content(answer), answer.headers["x-vsr-looper-models-used"]) == ("3", "large,large#2")
    thinks = [body["chat_template_kwargs"] for body in proxy.upstreams["large"].bodies]
    assert thinks == [{"enable_thinking": False}, {"enable_thinking": True}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"max_tokens": 5}),
        ("/v1/messages/count_tokens", {}),
        ("/v1/responses", {"input": "the sum of 1 and 2"}),
        ("/v1/embeddings", {"input": "the sum of 1 and 2"}),
    ],
)
def test_apis_without_log_probabilities_have_the_first_model_and_say_so(
    path: str, body: dict[str, Any]
) -> None:
    proxy = make()
    proxy.upstreams["large"].answers = [(200, {"id": "x"})]
    headers = post(proxy.app, path, SUM | body).headers
    assert headers["x-vsr-selected-model"] == "large"
    assert headers["x-vsr-response-warnings"] == "selection_fallback"


def test_a_preview_says_that_answers_decide() -> None:
    asked = {"text": "the sum of 1 and 2"}
    found = post(make().app, "/api/v1/routing/preview", asked).json()
    assert (found["selection_status"], found["selected_model"]) == ("execution_required", "other")
    assert found["recommended_models"] == ["other", "large"]


def test_a_sure_first_answer_is_kept() -> None:
    plugin = "{type: response_cache, configuration: {mode: exact, scope: global}}"
    proxy = make("threshold: 0.2", f"{MODELS}\n      plugins: [{plugin}]")
    for path in ("upstream", "cache"):
        answer = post(proxy.app, CHATS, SUM)
        assert (answer.headers["x-vsr-response-path"], content(answer)) == (path, "2")
    assert asked(proxy) == [1, 0]


@pytest.mark.parametrize("method", ["avg_logprob", "margin"])
def test_all_log_probabilities_are_asked_for_and_kept(method: str) -> None:
    """vLLM's -1; what is all of them, the model's server knows."""
    proxy = make(f"confidence_method: {method}, threshold: 0.01")
    expected = chat("2", -0.1, second=-9)
    proxy.upstreams["other"].answers = [(200, expected)]
    answer = post(proxy.app, CHATS, SUM | {"logprobs": True, "top_logprobs": -1})
    assert (answer.json(), asked(proxy)) == (expected, [1, 0])
    assert proxy.upstreams["other"].bodies[0]["top_logprobs"] == -1
