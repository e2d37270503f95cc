"""POST /api/v1/routing/preview: how a request would be routed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.routing.fakes import broken, make_proxy, metric, with_plugins
from tests.server.clients import http_client, post, run

PREVIEW = "/api/v1/routing/preview"


def previewed(body: dict[str, Any], proxy: Any = None) -> Any:
    answer = post((proxy or make_proxy()).app, PREVIEW, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_a_client_would_be_told_without_asking_a_model() -> None:
    proxy = make_proxy()
    told = previewed(
        {"text": "the sum of 1 and 2", "options": {"include_explanation": True}}, proxy
    )
    assert not any(each.calls for each in proxy.upstreams.values())
    assert told["metrics"].pop("decide_ms") > 0
    assert told == {
        "original_text": "the sum of 1 and 2",
        "requested_model": "helper",
        "recipe": "default",
        "routing_decision": "math",
        "decision_result": {
            "decision_name": "math",
            "confidence": 1.0,
            "algorithm": "static",
            "plugins": [],
            "used_signals": {"keywords": ["sums"]},
            "matched_signals": {"keywords": ["sums"]},
            "unmatched_signals": {},
        },
        "selected_model": "large",
        "selection_method": "static",
        "selection_reason": "the greatest score, 1; the first of 2 with it",
        "recommended_models": ["large", "other"],
        "selection_status": "selected",
        "notes": [],
        "headers": {
            "x-vsr-schema-version": "2",
            "x-vsr-response-path": "upstream",
            "x-vsr-selected-recipe": "default",
            "x-vsr-selected-decision": "math",
            "x-vsr-selected-confidence": "1.0000",
            "x-vsr-selected-algorithm": "static",
            "x-vsr-selected-model": "large",
            "x-vsr-matched-keywords": "sums",
        },
        "signal_confidences": {"keyword:sums": 1.0},
        "signal_values": {},
        "signal_errors": {},
        "unread_content": [],
        "metrics": {},
        "eval_trace": [
            {
                "name": "math",
                "won": True,
                "tree": {
                    "name": "AND",
                    "value": "true",
                    "confidence": 1.0,
                    "reason": "",
                    "children": [
                        {
                            "name": "keyword:sums",
                            "value": "true",
                            "confidence": 1.0,
                            "reason": "found 'sum'",
                            "children": [],
                        }
                    ],
                },
            }
        ],
    }
    assert metric(proxy, 'llm_decision_match_total{decision_name="math"}') == 0


def test_the_default_model_answers_what_no_decision_matches() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    told = previewed({"messages": messages, "model": "auto"})
    assert (told["decision_result"], told["selected_model"]) == (None, "small")
    assert told["headers"]["x-vsr-response-warnings"] == "no_decision"
    assert told["eval_trace"] == []


def test_a_preview_knows_conversations() -> None:
    learning = "{enabled: true, protection: {enabled: true}}"
    proxy = make_proxy(f"global: {{router: {{learning: {learning}}}}}")
    proxy.upstreams["large"].answers = [broken(), (200, {})]
    body = {"model": "auto", "messages": [{"role": "user", "content": "a sum"}]}
    post(proxy.app, "/v1/chat/completions", body, headers={"x-session-id": "1"})
    for name, model in (("1", "other"), ("2", "large")):
        told = previewed({"text": "a sum", "preview_context": {"session_id": name}}, proxy)
        assert told["selected_model"] == model


def test_a_fixed_answer_needs_no_model() -> None:
    fast = "{type: fast_response, configuration: {message: No sums here.}}"
    told = previewed({"text": "a sum"}, make_proxy(edit=with_plugins(fast)))
    assert (told["selection_status"], told["selected_model"]) == ("not_required", "")
    assert told["selection_reason"] == "it is answered at once, with status 200"
    assert told["headers"]["x-vsr-response-path"] == "fast_response"


def test_no_model_may_answer() -> None:
    proxy = make_proxy()
    for name in ("large", "other"):
        proxy.service.dispatcher.observed[name].breaker._open_until = float("inf")
    told = previewed({"text": "a sum"}, proxy)
    assert (told["selection_status"], told["selected_model"]) == ("unavailable", "")
    assert told["headers"]["x-vsr-response-path"] == "error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give a text or messages, one of them"),
        ({"text": "a", "messages": []}, "give a text or messages, one of them"),
        ({"text": "a", "temperature": 1}, "a preview has no temperature: it has messages, tools"),
        ({"text": "a", "options": {"x": 1}}, "a preview has no options.x: it has include_expl"),
        ({"text": "a", "options": [1]}, "options and preview_context must be objects"),
        (
            {"text": "a", "preview_context": {"user": "s"}},
            "a preview has no preview_context.us",
        ),
        ({"text": "a", "model": "large"}, "model must be a name that is decided (helper, vllm-sr"),
        ({"text": 5}, "the request can't be classified: messages[0]"),
        ({"text": "a", "model": 5}, "model must be a name that is decided (helper, vllm-sr"),
        ({"messages": "a"}, "the request can't be classified: messages must be a list of objects"),
    ],
)
def test_what_is_no_preview_is_refused(body: dict[str, Any], message: str) -> None:
    answer = post(make_proxy().app, PREVIEW, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


class Slow:
    """A model for signals that takes its time."""

    async def find(self, request: Any, wanted: Any) -> dict[Any, Any]:
        await asyncio.sleep(1.5)
        return {}


def test_previews_are_bounded_in_number_and_time() -> None:
    limits = "{request_timeout_seconds: 1, max_concurrency: 2}"
    rule = "signals:\n    jailbreak: [{name: any, threshold: 0.5}]"
    proxy = make_proxy(
        f"global: {{services: {{api: {{routing_preview: {limits}}}}}}}",
        edit=lambda text: text.replace("signals:", rule, 1).replace(
            "{type: keyword, name: sums}", "{type: jailbreak, name: any}"
        ),
        learned=Slow(),
    )

    async def work() -> list[int]:
        async with http_client(proxy.app) as client:
            asked = (client.post(PREVIEW, json={"text": "a sum"}) for _ in range(3))
            return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    assert run(work()) == [429, 504, 504]
    assert proxy.service.num_previews == 0


def test_an_unknown_signal_has_its_reason() -> None:
    class Failing:
        async def find(self, request: Any, wanted: Any) -> dict[Any, Any]:
            raise RuntimeError("out of memory")

    rule = "signals:\n    jailbreak: [{name: any, threshold: 0.5}]"
    leaf = "[{type: keyword, name: sums}]"
    proxy = make_proxy(
        edit=lambda text: text.replace("signals:", rule, 1).replace(
            leaf, "[{type: jailbreak, name: any}], on_unknown: fail_request"
        ),
        learned=Failing(),
    )
    told = previewed({"text": "a sum"}, proxy)
    assert told["selection_status"] == "failed"
    assert told["signal_errors"] == {
        "jailbreak:any": "its model failed: RuntimeError('out of memory')"
    }
