"""What a record may look like, and what is said of one that may not."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.data.records import Chat, Completion, Pair, Text, parse_record

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}


def test_each_format_is_known_by_its_keys() -> None:
    assert parse_record({"text": "a"}, "auto") == Text(text="a")
    assert parse_record({"prompt": "a", "completion": "b", "source": 3}, "auto") == Completion(
        prompt="a", completion="b"
    )
    whole = Chat(messages=(USER, ANSWER), trained=(1,))
    other = Chat(messages=(USER, NO), trained=(1,))
    assert parse_record({"messages": [USER, ANSWER]}, "auto") == whole
    assert parse_record({"prompt": [USER], "completion": [ANSWER]}, "auto") == whole
    both = {"preferred_output": [ANSWER], "non_preferred_output": [NO]}
    for value in (
        {"input": {"messages": [USER]}, **both},
        {"prompt": {"messages": [USER]}, **both},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [NO]},
    ):
        assert parse_record(value, "auto") == Pair(chosen=whole, rejected=other)
    assert parse_record({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference") == Pair(
        chosen=Completion(prompt="a", completion="b"),
        rejected=Completion(prompt="a", completion="c"),
    )


def test_weights_choose_what_is_learned_and_leave_the_messages() -> None:
    messages = [USER, {**NO, "weight": 0}, USER, {**ANSWER, "weight": 1}]
    record = parse_record({"messages": messages}, "auto")
    assert record == Chat(messages=(USER, NO, USER, ANSWER), trained=(3,))
    assert messages[1]["weight"] == 0  # what was given is not changed


def test_of_a_pair_only_the_answers_are_learned() -> None:
    value = {"input": {"messages": [USER, NO, USER]}, "preferred_output": [ANSWER]}
    record = parse_record({**value, "non_preferred_output": [NO]}, "auto")
    assert isinstance(record, Pair)
    assert isinstance(record.chosen, Chat)
    assert record.chosen.trained == (3,)


def test_tools_and_their_calls_go_to_the_template() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}], "name": None}
    reply = {"role": "tool", "content": "3", "tool_call_id": "x"}
    tools = [{"type": "function", "function": {"name": "f"}}]
    record = parse_record({"messages": [USER, call, reply, ANSWER], "tools": tools}, "chat")
    assert isinstance(record, Chat)
    assert record.tools == tuple(tools)
    assert record.trained == (1, 3)
    assert "name" not in record.messages[1]  # a null, as Parquet fills in


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"a record must be a JSON object, got \[1\]"),
        ({}, "must have the keys .*messages.* or .*text.*, got none"),
        ({"txt": "a"}, "got 'txt'"),
        ({"prompt": "a"}, "must have the keys"),
        ({"text": 3}, "text must be a text, got 3"),
        ({"text": ""}, "text is empty: there is nothing to learn"),
        ({"text": "a\ud800"}, "text is not valid Unicode: .* at character 1"),
        ({"prompt": "a", "completion": ""}, "completion is empty"),
        ({"prompt": "a", "completion": 3}, "prompt and completion must be both texts or"),
        ({"prompt": 1, "completion": [ANSWER]}, "prompt must be a list of at least one message"),
        ({"messages": []}, "messages must be a list of at least one message"),
        ({"messages": "Hi"}, "messages must be a list of at least one message, got 'Hi'"),
        ({"messages": [USER, "Hi"]}, r"messages\[1\] must be an object with a role, got 'Hi'"),
        ({"messages": [{"role": "bot"}]}, r"messages\[0\].role must be one of .*, got 'bot'"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has neither content nor tool_calls"),
        ({"messages": [{**USER, "content": 3}]}, "content must be a text or a list"),
        (
            {"messages": [{**USER, "content": [{"type": "image_url"}]}]},
            r"messages\[0\].content\[0\] must be a part of type text",
        ),
        ({"messages": [{**USER, "weight": 1}]}, "weight must be 0 or 1, and 1 only on an"),
        ({"messages": [USER, {**ANSWER, "weight": 0.5}]}, "weight must be 0 or 1.* got 0.5"),
        ({"messages": [{**USER, "tool_calls": [1]}]}, "tool_calls must be a list, on an assist"),
        ({"messages": [USER, {**ANSWER, "function_call": {}}]}, "function_call is not supported"),
        ({"messages": [USER, ANSWER], "functions": []}, "functions is not supported: describe"),
        ({"messages": [USER, ANSWER], "tools": {}}, "tools must be a list of objects"),
        ({"messages": [USER]}, "the messages have nothing to learn: at least one must"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "the messages have nothing to learn"),
        ({"messages": [ANSWER]}, "the first message is the assistant's: begin with what"),
        (
            {"input": [USER], "preferred_output": [], "non_preferred_output": []},
            'input must be an object with "messages"',
        ),
        (
            {
                "input": {"messages": [USER]},
                "preferred_output": [USER],
                "non_preferred_output": [NO],
            },
            "the answer has nothing to learn",
        ),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, "prompt and rejected must be both"),
    ],
)
def test_what_is_wrong_with_a_record(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_record(value, "auto")


def test_a_record_of_another_format_than_asked_for() -> None:
    with pytest.raises(ValueError, match=r"keys \{\"messages\"\} or .*, got 'text'"):
        parse_record({"text": "a"}, "chat")


def test_a_developers_message_is_read_as_serving_reads_it() -> None:
    messages = [{"role": "developer", "content": "Be"}, USER, ANSWER]
    system = {"role": "system", "content": "Be"}
    assert parse_record({"messages": messages}, "auto") == Chat(
        messages=(system, USER, ANSWER), trained=(2,)
    )
    with pytest.raises(ValueError, match=r"messages\[0\].role must be one of .*, got \['user'\]"):
        parse_record({"messages": [{"role": ["user"], "content": "a"}, ANSWER]}, "auto")
