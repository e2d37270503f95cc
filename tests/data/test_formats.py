"""ShareGPT, Alpaca, and the keys beside a conversation: what they become, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.data.records import Chat, Pair, parse_record

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Yes"}
NO = {"role": "assistant", "content": "No"}
SYSTEM = {"role": "system", "content": "Be terse"}
CHAT = Chat(messages=(USER, ANSWER), trained=(1,))
PAIR = Pair(chosen=CHAT, rejected=Chat(messages=(USER, NO), trained=(1,)))


def said(speaker: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value, **more}


def parsed(value: dict[str, Any]) -> Chat:
    record = parse_record(value, "auto")
    assert isinstance(record, Chat)
    return record


@pytest.mark.parametrize(
    "value",
    [
        {"conversations": [said("human", "Hi"), said("gpt", "Yes")]},
        {"conversations": [said("user", "Hi"), said("assistant", "Yes")], "id": "x"},
        {"conversations": [USER, ANSWER], "prompt": "Hi"},
        {"messages": [said("human", "Hi"), said("gpt", "Yes")]},
        {"instruction": "Hi", "output": "Yes"},
        {"instruction": "Hi", "input": "", "output": "Yes", "text": "Below is an instruction"},
        {"instruction": "Hi", "input": None, "output": "Yes", "history": []},
    ],
)
def test_other_formats_are_conversations(value: dict[str, Any]) -> None:
    assert parse_record(value, "auto") == CHAT
    assert parse_record(value, "chat") == CHAT


@pytest.mark.parametrize(
    "value",
    [
        {
            "conversations": [said("human", "Hi")],
            "chosen": said("gpt", "Yes"),
            "rejected": said("gpt", "No"),
        },
        {"conversations": [USER], "chosen": [ANSWER], "rejected": [NO]},
        {"messages": [USER], "chosen": ANSWER, "rejected": NO},
        {"messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, NO]},
        {"instruction": "Hi", "input": "", "chosen": "Yes", "rejected": "No"},
    ],
)
def test_other_formats_are_pairs(value: dict[str, Any]) -> None:
    assert parse_record(value, "auto") == PAIR


def test_sharegpts_turns() -> None:
    turns = [
        said("system", "Be terse"),
        said("human", "Hi"),
        said("gpt", "No", weight=0),
        said("human", "Weather?"),
        said("function_call", '{"name": "weather", "arguments": {"city": "SF"}}'),
        said("observation", "3"),
        said("gpt", "Cold"),
    ]
    record = parsed({"conversations": turns, "tools": '[{"name": "weather"}]'})
    assert record.trained == (4, 6)
    assert record.tools == ({"name": "weather"},)
    assert record.messages[:3] == (SYSTEM, USER, NO)
    function = {"name": "weather", "arguments": {"city": "SF"}}
    assert record.messages[4] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": function}],
    }
    assert record.messages[5] == {"role": "tool", "content": "3"}


@pytest.mark.parametrize("name", ["weight", "train", "training"])
def test_a_message_says_whether_it_is_learned(name: str) -> None:
    asked = [{**USER, name: 0}, {**NO, name: False}, USER, {**ANSWER, name: True}]
    expected = Chat(messages=(USER, NO, USER, ANSWER), trained=(3,))
    assert parsed({"messages": asked}) == expected
    shared = [
        said("human", "Hi", **{name: 0}),
        said("gpt", "No", **{name: 0}),
        said("human", "Hi", **{name: None}),
        said("gpt", "Yes", **{name: 1}),
    ]
    assert parsed({"conversations": shared}) == expected


def test_alpacas_input_and_history() -> None:
    value = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["Hi", "Yes"]]}
    assert parsed(value) == Chat(
        messages=(
            *(USER, ANSWER),
            {"role": "user", "content": "Add\n1 2"},
            {"role": "assistant", "content": "3"},
        ),
        trained=(1, 3),
    )


def test_a_system_key_is_the_first_message() -> None:
    for value in (
        {"messages": [USER, ANSWER], "system": "Be terse"},
        {"messages": [SYSTEM, USER, ANSWER], "system": "Be terse"},
        {"conversations": [said("human", "Hi"), said("gpt", "Yes")], "system": "Be terse"},
        {"instruction": "Hi", "output": "Yes", "system": "Be terse"},
        {"prompt": [USER], "completion": "Yes", "system": "Be terse"},
    ):
        assert parsed(value) == Chat(messages=(SYSTEM, USER, ANSWER), trained=(2,))
    assert parsed({"messages": [USER, ANSWER], "system": ""}) == CHAT
    pair = parse_record({"prompt": [USER], "chosen": "a", "rejected": "b", "system": "s"}, "auto")
    assert isinstance(pair, Pair)
    assert isinstance(pair.rejected, Chat)
    assert pair.rejected.messages[0] == {"role": "system", "content": "s"}
    assert pair.rejected.trained == (2,)


def test_parameters_of_tools_in_json_are_objects() -> None:
    for wrap in (lambda tool: tool, lambda tool: {"type": "function", "function": tool}):
        given = {"name": "f", "parameters": '{"type": "object"}'}
        record = parsed({"messages": [USER, ANSWER], "tools": [wrap(given)]})
        assert record.tools == (wrap({"name": "f", "parameters": {"type": "object"}}),)


def test_no_tools_are_none() -> None:
    """Templates test for null, and would say that there are functions."""
    for tools in ([], "[]", "", None):
        assert parsed({"messages": [USER, ANSWER], "tools": tools}).tools is None


def test_template_kwargs_go_to_the_template() -> None:
    record = parsed(
        {"messages": [USER, ANSWER], "chat_template_kwargs": {"enable_thinking": False}}
    )
    assert record.template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"conversations": [said("bot", "Hi")]}, r"conversations\[0\].from must be one of system"),
        ({"conversations": [{"from": ["human"]}]}, r"from must be one of .*, got \['human'\]"),
        ({"messages": [USER, {**ANSWER, "train": "no"}]}, r"messages\[1\].train must be 0 or 1"),
        ({"messages": [{**USER, "train": True}, ANSWER]}, "got True on one of the role user"),
        (
            {"messages": [USER, {**ANSWER, "train_detail": [{"begin_offset": 0}]}]},
            "train_detail is not supported: a message is learned as a whole",
        ),
        (
            {"messages": [USER, ANSWER], "label": False},
            "unpaired preference: label says whether its answer is wanted",
        ),
        (
            {"conversations": [said("human", "a"), said("gpt", "b")], "kto_tag": False},
            "leave out the records with unwanted answers and the key kto_tag",
        ),
        ({"conversations": [said("human", None)]}, r"messages\[0\] has neither content nor tool"),
        ({"conversations": "Hi"}, "must be a list of at least one message, got 'Hi'"),
        (
            {"conversations": [said("human", "Hi"), said("function_call", "f(x)")]},
            r"conversations\[1\].value is not valid JSON: .*; a function call must be an object",
        ),
        ({"instruction": "", "output": "Yes"}, "instruction is empty"),
        ({"instruction": "Hi", "output": ""}, "output is empty"),
        ({"instruction": "Hi", "input": 3, "output": "Yes"}, "input must be a text, got 3"),
        ({"instruction": "Hi", "output": "a", "history": "b"}, "history must be a list of pairs"),
        ({"instruction": "Hi", "output": "a", "history": [["b"]]}, r"history\[0\] must be a pair"),
        ({"messages": [USER, ANSWER], "system": 3}, "system must be a text, got 3"),
        (
            {"messages": [SYSTEM, USER, ANSWER], "system": "Be kind"},
            "system is 'Be kind', and the conversation begins with another system message",
        ),
        (
            {"prompt": "Bye", "completion": [USER, ANSWER]},
            "completion begins with a message of the user, and no user's message in it has the",
        ),
        ({"messages": [USER, ANSWER], "tools": "[{]"}, "tools is not valid JSON: "),
        ({"messages": [USER, ANSWER], "tools": "{}"}, "tools must be a list of objects, got '{}'"),
        (
            {"messages": [USER, ANSWER], "tools": [{"function": {"parameters": "[1]"}}]},
            r"tools\[0\].function.parameters must be a JSON object, got '\[1\]'",
        ),
        (
            {"messages": [USER, ANSWER], "chat_template_kwargs": "x"},
            "chat_template_kwargs must be an object, got 'x'",
        ),
        (
            {"messages": [USER, ANSWER], "chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs may not set 'messages'",
        ),
        (
            {"messages": [USER, ANSWER], "chat_template_kwargs": {"chat_template": "x"}},
            "chat_template_kwargs may not set 'chat_template'",
        ),
        ({"text": "a", "system": "b"}, "system belongs to a conversation, and the record is plain"),
        (
            {"prompt": "a", "completion": "b", "chat_template_kwargs": {"x": 1}},
            "chat_template_kwargs belongs to a conversation",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{}]},
            "tools belongs to a conversation",
        ),
        (
            {"prompt": "a", "completion": "b", "label": False},
            "the record is an unpaired preference: label says whether its answer is wanted",
        ),
    ],
)
def test_what_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_record(value, "auto")
