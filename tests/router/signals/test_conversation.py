"""Conversation: counts of messages, calls and images, and what a request is in the midst of."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router.request import Message, RoutedRequest, Tool, ToolCall
from tests.router.signals.rules import finder, found, with_messages

USER, SYSTEM, DEVELOPER = (Message(role=role, text="x") for role in ("user", "system", "developer"))
ANSWER = Message(role="assistant", text="x")
CALLS = Message(role="assistant", tool_calls=(ToolCall(id="a"), ToolCall(id="b")))
RESULT = Message(role="tool", text="x", tool_call_id="a")
IMAGES = Message(role="user", num_images=2)


def rule(source: str, role: str = "", **fields: Any) -> dict[str, Any]:
    feature = {"type": "count", "source": {"type": source, "role": role}}
    return {"feature": feature, "predicate": {"gte": 0}, **fields}


def count(request: RoutedRequest, source: str, role: str = "") -> float | None:
    return found("conversation", rule(source, role), request).value


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("", 6),
        ("user", 2),
        ("assistant", 1),
        ("system", 1),
        ("developer", 1),
        ("tool", 1),
        ("non_user", 4),
    ],
)
def test_messages_by_role(role: str, expected: int) -> None:
    messages = [SYSTEM, DEVELOPER, DEVELOPER, USER, ANSWER, RESULT, USER]
    assert count(with_messages(messages), "message", role) == expected


def test_calls_tools_and_images() -> None:
    tool = Tool(name="t", definition={})
    request = with_messages([USER, CALLS, RESULT, IMAGES], tools=(tool, tool))
    assert count(request, "tool_definition") == 2
    assert count(request, "assistant_tool_call") == 2
    assert count(request, "assistant_tool_cycle") == 1
    assert count(request, "image_content") == 2


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], 0),
        ([USER], 0),
        ([USER, CALLS], 1),
        ([USER, CALLS, RESULT], 1),
        ([USER, CALLS, RESULT, RESULT, USER], 1),
        ([USER, CALLS, RESULT, RESULT, ANSWER, USER], 0),
        ([USER, CALLS, RESULT, ANSWER, USER], 1),  # one of two calls has no result
    ],
)
def test_a_tool_loop(messages: list[Message], expected: int) -> None:
    assert count(with_messages(messages), "active_tool_loop") == expected


@pytest.mark.parametrize(("choice", "required", "none"), [("required", 1, 0), ("none", 0, 1)])
def test_tool_choice(choice: str, required: int, none: int) -> None:
    request = with_messages([USER], tool_choice=choice)
    assert count(request, "tool_choice_required") == required
    assert count(request, "tool_choice_none") == none


def test_a_workflow_waits_for_the_last_results_alone() -> None:
    waited = Message(role="tool", tool_call_id="flowtool_09aF__call_1")
    assert count(with_messages([USER, CALLS, waited, RESULT]), "flow_tool_state") == 1
    assert count(with_messages([USER, CALLS, waited, USER]), "flow_tool_state") == 0
    other = Message(role="tool", tool_call_id="flowtool_xyz__call_1")
    assert count(with_messages([USER, CALLS, other]), "flow_tool_state") == 0


def test_exists_and_count() -> None:
    request = with_messages([IMAGES, IMAGES])
    exists = {"feature": {"type": "exists", "source": {"type": "image_content"}}}
    assert found("conversation", exists, request).value == 1
    for predicate, expected in (({"gte": 4}, True), ({"gt": 4}, False)):
        result = found("conversation", rule("image_content", predicate=predicate), request)
        assert (result.matched, result.value) == (expected, 4)
        assert result.confidence == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (rule("turns"), "source.type 'turns' is not known"),
        (rule("message", "robot"), "source.role 'robot' is not known"),
        (rule("image_content", "user"), "source.role is for source.type message"),
        (rule("message", predicate=None), "count needs a predicate.*gte: 0"),
        (
            {"feature": {"type": "exists", "source": {"type": "message"}}, "predicate": {"gt": 0}},
            "exists takes no predicate",
        ),
        ({"feature": {"type": "density", "source": {"type": "message"}}}, "feature.type 'density'"),
    ],
)
def test_a_rule_that_fits_nothing_is_refused(wrong: dict[str, Any], message: str) -> None:
    given = {key: value for key, value in wrong.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        finder("conversation", given)
