"""Conversations that become one item, and go on behind it."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import CompactedResponse

from tests.responses_routes.serving import Server
from tests.server.clients import post

COMPACT = "/v1/responses/compact"


def test_a_conversation_goes_on_behind_its_summary() -> None:
    server = Server("<think>\nHm.\n</think>\n\nThey met.")
    first = server.create(input="Hi", instructions="I.")
    asked = {"model": "fake/model", "previous_response_id": first["id"], "input": "More"}
    compacted = post(server.app, COMPACT, {**asked, "prompt_cache_options": {"mode": "implicit"}})
    answer = CompactedResponse.model_validate(compacted.json())
    prompt = bytes(server.engine.requests[-1].prompt_token_ids).decode()
    assert prompt.startswith("[user]Hi[assistant](Hm.)They met.[user]More[user]Summarize this")
    assert answer.usage.input_tokens == len(prompt)
    [item] = compacted.json()["output"]
    assert item["type"] == "compaction"
    assert post(server.app, f"/v1/responses/{answer.id}/cancel").status_code == 404
    prompt = server.prompt(input=[item, {"role": "user", "content": "And?"}])
    assert prompt == "[user]Summary of the conversation so far:\nThey met.[user]And?"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "Hi"}, "model"),
        ({"model": "fake/model"}, "input"),
        ({"model": "fake/model", "input": 3}, "input"),
        ({"model": "fake/model", "input": "Hi", "tools": []}, "tools"),
        ({"model": "fake/model", "input": "Hi", "service_tier": "flex"}, "service_tier"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    answer = post(Server().app, COMPACT, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_another_server_compacted_is_refused() -> None:
    error = Server().error(input=[{"type": "compaction", "encrypted_content": "gAAAAAB"}])
    assert error["param"] == "input[0].encrypted_content"
    assert "only the server that encrypted it" in error["message"]
