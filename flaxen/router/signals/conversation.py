"""Conversation: how many messages, calls and images a request has, and what it is in the midst of.

Nothing here reads a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_choice
from flaxen.router.signals.found import Found
from flaxen.router.signals.predicate import Predicate

ROLES = ("", "user", "assistant", "system", "developer", "tool", "non_user")
# The ids of calls that a router's own workflow made, and waits for.
_WORKFLOW_CALL = re.compile(r"flowtool_[0-9a-fA-F]+__")


@dataclass(frozen=True, kw_only=True)
class ConversationSource:
    """What is counted. `role` is for messages: which of them, "" for all.

    Raises:
      ValueError: the type or the role is unknown, or a role is given for another type.
    """

    type: str
    role: str = ""

    def __post_init__(self) -> None:
        check_choice(self.type, "source.type", COUNTS)
        check_choice(self.role, "source.role", ROLES)
        if self.role and self.type != "message":
            raise ValueError(f"source.role is for source.type message, not for {self.type!r}")


@dataclass(frozen=True, kw_only=True)
class ConversationFeature:
    """Whether something is there (exists), or how often (count)."""

    type: str
    source: ConversationSource

    def __post_init__(self) -> None:
        check_choice(self.type, "feature.type", ("exists", "count"))


@dataclass(frozen=True, kw_only=True)
class ConversationRule(NamedRule):
    """Whether a count of the conversation is in a range.

    Raises:
      ValueError: there is a range for exists, or none for count.
    """

    feature: ConversationFeature
    predicate: Predicate | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feature.type == "exists" and self.predicate is not None:
            raise ValueError("feature.type exists takes no predicate: use count for a range")
        if self.feature.type == "count" and self.predicate is None:
            raise ValueError(
                "feature.type count needs a predicate: without one the rule matches every request. "
                "For a rule that only gives its number, write gte: 0"
            )


def find_conversation(rule: ConversationRule, request: RoutedRequest) -> Found:
    """Whether a rule holds for a conversation; the value is the count, or 1 for what exists."""
    source = rule.feature.source
    count = COUNTS[source.type](request, source.role)
    value = float(count > 0) if rule.feature.type == "exists" else float(count)
    matched = rule.predicate.holds(value) if rule.predicate else value > 0
    return Found(
        matched=matched, confidence=float(matched), value=value, reason=f"{source.type}: {count}"
    )


def _num_messages(request: RoutedRequest, role: str) -> int:
    """The messages of a role. Developer messages count as one, like the prompt that they are."""
    roles = [message.role for message in request.messages]
    num_developer = int("developer" in roles)
    if role == "developer":
        return num_developer
    if role in ("", "non_user"):
        others = (
            ("assistant", "system", "tool") if role else ("assistant", "system", "tool", "user")
        )
        return num_developer + sum(1 for each in roles if each in others)
    return roles.count(role)


def _in_tool_loop(request: RoutedRequest) -> int:
    """1 while results of tools are due or just came, so that the same model should go on."""
    messages = request.messages
    if not messages:
        return 0
    answers_result = (
        messages[-1].role == "user" and len(messages) > 1 and messages[-2].role == "tool"
    )
    is_open = _num_calls(request) > _num_results(request)
    return int(messages[-1].role == "tool" or answers_result or is_open)


def _in_workflow(request: RoutedRequest) -> int:
    """1 if the last messages are results of calls that a router's own workflow waits for."""
    for message in reversed(request.messages):
        if message.role != "tool":
            break
        if _WORKFLOW_CALL.match(message.tool_call_id):
            return 1
    return 0


def _num_calls(request: RoutedRequest) -> int:
    return sum(len(m.tool_calls) for m in request.messages if m.role == "assistant")


def _num_results(request: RoutedRequest) -> int:
    return sum(1 for message in request.messages if message.role == "tool")


# From a request and the source's role to a count.
COUNTS: dict[str, Callable[[RoutedRequest, str], int]] = {
    "message": _num_messages,
    "tool_definition": lambda request, _: request.num_tools,
    "assistant_tool_call": lambda request, _: _num_calls(request),
    "assistant_tool_cycle": lambda request, _: _num_results(request),
    "active_tool_loop": lambda request, _: _in_tool_loop(request),
    "image_content": lambda request, _: sum(m.num_images for m in request.messages),
    "tool_choice_required": lambda request, _: int(request.tool_choice == "required"),
    "tool_choice_none": lambda request, _: int(request.tool_choice == "none"),
    "flow_tool_state": lambda request, _: _in_workflow(request),
}
