"""Whole responses: what they hold, and what of a body the engine is told."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase

from flaxen.responses_routes.bodies import WITHOUT_EFFECT, ResponseBody
from flaxen.server.generation.bodies import CommonBody
from tests.responses_routes.serving import PATH, SAYS, TEMPLATE, TOOL, Server
from tests.server.clients import openai_client, post, run
from tests.server.fakes import ERROR


def test_reasoning_text_and_calls_are_items_in_their_order() -> None:
    response = Server().create(tools=[TOOL])
    reasoning, message, call = response["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "They ask."}]
    assert message["content"][0]["text"] == "I look é."
    assert (call["name"], call["arguments"]) == ("f", '{"a": "é"}')
    assert [item["status"] for item in response["output"]] == ["completed"] * 3
    prefixes = [item["id"].split("_")[0] for item in response["output"]]
    assert [*prefixes, call["call_id"].split("_")[0]] == ["rs", "msg", "fc", "call"]
    assert response["status"] == "completed"
    assert response["completed_at"] >= response["created_at"]


def test_usage_has_the_tokens_of_the_cache_and_of_reasoning() -> None:
    response = Server().create(tools=[TOOL])
    num_prompt, num_output = len("f [user]Hi"), len(SAYS.encode()) + 1
    assert response["usage"] == {
        "input_tokens": num_prompt,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": len("<think>\nThey ask.\n</think>\n\n")},
        "total_tokens": num_prompt + num_output,
    }


def test_a_response_at_the_token_limit_is_incomplete() -> None:
    response = Server().create(max_output_tokens=len("<think>\nThey ask.\n</think>\n\nI lo"))
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["output"][1]["content"][0]["text"] == "I lo"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    [message] = Server("").create()["output"]
    assert message["content"] == [
        {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    ]


def test_the_response_repeats_what_was_asked_for() -> None:
    asked: dict[str, Any] = {
        "instructions": "Be short.",
        "max_output_tokens": 3,
        "max_tool_calls": 2,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "store": False,
        "temperature": 0.5,
        "tool_choice": "auto",
        "tools": [TOOL | {"description": "Does.", "strict": False}],
        "top_p": 0.25,
        "truncation": "auto",
        "user": "u",
    }
    response = Server().create(**asked)
    assert {name: response[name] for name in asked} == asked
    plain = Server().create(max_output_tokens=1)
    assert plain["reasoning"] == {"effort": None, "summary": None}
    assert plain["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert (plain["tool_choice"], plain["truncation"], plain["store"]) == ("auto", "disabled", True)
    assert plain["temperature"] == 1.0


def test_the_engine_is_told_how_to_sample() -> None:
    server = Server()
    server.create(temperature=0.5, top_p=0.25, max_output_tokens=7, seed=3, top_k=5, stop="x")
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.25, 7)
    assert (sampling.seed, sampling.top_k, sampling.stop) == (3, 5, ("x",))


def test_logprobs_are_of_the_text_alone() -> None:
    server = Server()
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    _, message, _ = server.create(tools=[TOOL], **asked)["output"]
    entries = message["content"][0]["logprobs"]
    # Those of the markers that ended the reasoning came with the first of the text.
    assert "".join(entry["token"] for entry in entries).endswith("I look \ufffd\ufffd.")
    assert [len(entry["top_logprobs"]) for entry in entries] == [2] * len(entries)
    assert server.create()["output"][1]["content"][0]["logprobs"] == []


def test_one_call_alone_where_no_parallel_ones_are_wanted() -> None:
    server = Server(SAYS + SAYS.split("\n")[-1])
    assert len(server.create(tools=[TOOL])["output"]) == 4
    assert len(server.create(tools=[TOOL], parallel_tool_calls=False)["output"]) == 3


def test_an_effort_goes_to_the_template() -> None:
    assert Server().prompt(reasoning={"effort": "high", "summary": "auto"}) == "[user]Hihigh"
    assert Server().create(reasoning={"effort": "low"})["reasoning"]["effort"] == "low"
    error = Server(template=TEMPLATE.replace("{{ reasoning_effort }}", "")).error(
        reasoning={"effort": "high"}
    )
    assert error["param"] == "reasoning.effort"


def test_a_budget_of_reasoning_is_that_of_chats() -> None:
    server = Server()
    server.create(thinking_token_budget=3)
    assert server.engine.requests[-1].grammar is not None
    assert server.error(thinking_token_budget=-2)["param"] == "thinking_token_budget"


def test_input_tokens_are_counted_without_an_answer() -> None:
    server = Server()
    answer = post(server.app, f"{PATH}/input_tokens", {"input": "Hi", "tools": [TOOL]})
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": len("f [user]Hi")}
    assert server.engine.requests == []


def test_the_official_client_reads_it() -> None:
    async def work() -> Any:
        async with openai_client(Server().app) as client:
            counted = await client.responses.input_tokens.count(model="fake/model", input="Hi")
            return counted, await client.responses.create(model="fake/model", input="Hi")

    counted, response = run(work())
    assert counted.input_tokens == len("[user]Hi")
    assert response.output_text.startswith("I look é.")


def test_every_parameter_of_openais_is_honoured_or_refused_by_name() -> None:
    known = {*ResponseBody.model_fields, *CommonBody.model_fields, *WITHOUT_EFFECT}
    assert set(ResponseCreateParamsBase.__annotations__) <= known


YES = Server("Yes.")
ACCEPTED: list[dict[str, Any]] = [
    {"service_tier": "auto"}, {"prompt_cache_retention": "in_memory"}, {"context_management": []},
    {"image": {"context_compression": "auto"}}, {"image": {}},
    {"background_options": {"completion_window": "soonest"}},
    {"prompt_cache_options": {"mode": "implicit"}}, {"conversation": None}, {"prompt": None},
    {"include": ["reasoning.encrypted_content"]}, {"include": []}, {"top_logprobs": 0},
    {"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {"text": {}},
    {"reasoning": {"summary": "detailed", "generate_summary": "auto", "mode": "standard"}},
    {"reasoning": {"context": "auto"}}, {"tools": []}, {"n": 1}, {"max_tool_calls": 3.0},
    {"max_tool_calls": 0},
    {"unknown": None}, {"return_token_ids": False}, {"stream_options": {}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "retention"),
    [
        ({}, None),
        ({"prompt_cache_retention": "in_memory"}, None),
        ({"prompt_cache_retention": "24h"}, 86400),
        ({"prompt_cache_retention": "24h", "retention": {"ttl_s": 60}}, 60),
        ({"session_id": "s"}, 300),
    ],
    ids=str,
)
def test_the_engine_is_told_how_long_a_prefix_is_kept(
    body: dict[str, Any], retention: float | None
) -> None:
    YES.create(**body)
    asked = YES.engine.requests[-1]
    assert (asked.retention, asked.session_id) == (retention, body.get("session_id"))


@pytest.mark.parametrize("body", ACCEPTED, ids=str)
def test_values_without_effect_are_accepted(body: dict[str, Any]) -> None:
    assert YES.create(**body)["output"][0]["content"][0]["text"] == "Yes."


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"service_tier": "flex"}, "service_tier"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"access_programs": {}}, "access_programs"),
        ({"image": {"context_compression": "enabled"}}, "image"),
        ({"background_options": {"completion_window": "2h"}}, "background_options"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options"),
        ({"prompt_cache_retention": "48h"}, "prompt_cache_retention"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"n": 2}, "n"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"return_token_ids": True}, "return_token_ids"),
        ({"include": ["web_search_call"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"background": True, "store": False}, "background"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"reasoning": {"summary": "concise"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "most"}}, "reasoning.effort"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"truncation": "most"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 4096}, "max_output_tokens"),
        ({"input": "a" * 4096}, "input"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"input": None}, "input"),
    ],
    ids=str,
)
def test_what_is_refused_is_named(body: dict[str, Any], param: str) -> None:
    error = YES.error(**body)
    assert error["param"] == param
    assert error["message"]


def test_old_turns_are_dropped_where_that_is_allowed() -> None:
    turns = [
        {"role": role, "content": f"{i}{role[0] * 20}"}
        for i in range(6)
        for role in ("user", "assistant")
    ]
    asked = [{"role": "system", "content": "Short."}, *turns, {"role": "user", "content": "Last"}]
    server = Server("Yes.", max_model_len=150)
    prompt = server.prompt(input=asked, truncation="auto", max_output_tokens=20)
    assert prompt.startswith("[system]Short.[user]5u")
    assert prompt.endswith("[user]Last")
    turn = len("[user]4[assistant]4") + 40
    assert len(prompt) <= 130 < len(prompt) + turn
    assert server.prompt(input="Hi", truncation="auto") == "[user]Hi"
    error = server.error(input=asked, max_output_tokens=20)
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
    error = server.error(input="a" * 200, truncation="auto")
    assert error["code"] == "context_length_exceeded"


def test_errors_of_the_engine_have_their_status() -> None:
    failed = post(Server(ends={2: ERROR}).app, PATH, {"input": "Hi"})
    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")
    full = post(Server(max_waiting=0).app, PATH, {"input": "Hi"})
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert post(Server().app, PATH, {"input": "Hi", "model": "other"}).status_code == 404


def test_a_request_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="flaxen.server"):
        Server("Secret.").create()
    [record] = [each for each in caplog.records if each.name == "flaxen.server"]
    assert record.__dict__["output_tokens"] == len("Secret.") + 1
    assert record.__dict__["finish"] == "stop"
    assert "Secret" not in record.getMessage()
