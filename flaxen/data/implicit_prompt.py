"""Finds the prompt in answers that repeat it, or contain it without the record naming it.

Data sets write a preference as a prompt and two answers, or as two whole conversations with a
common beginning; some do both. The prompt must be there once. Deliberately does not know: losses,
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Messages = list[dict[str, Any]]


def split_messages(prompt: Messages, answer: Messages) -> tuple[Messages, Messages]:
    """Splits an answer that may repeat the prompt, or its end: returns the prompt and the rest."""
    num = len(prompt)
    begun = [_said(message) for message in prompt]
    whole = [_said(message) for message in answer]
    num_system = next((i for i, each in enumerate(answer) if not _is_system(each)), 0)
    for lead in range(num_system + 1):  # only the answer may have the system message
        if whole[lead : lead + num] == begun and lead + num < len(answer):
            return answer[: lead + num], answer[lead + num :]
    if answer[0]["role"] != "assistant":
        for num in range(min(len(prompt), len(answer) - 1), 0, -1):
            if begun[-num:] == whole[:num]:
                return prompt, answer[num:]
    return prompt, answer


def find_text_in_messages(prompt: str, answer: Messages) -> tuple[Messages, Messages] | None:
    """Finds the user's message whose text is the prompt: returns the messages up to it and the
    rest. None if there is no such message.
    """
    if answer[0]["role"] == "assistant":
        return [{"role": "user", "content": prompt}], answer
    for i, message in enumerate(answer[:-1]):
        if message["role"] == "user" and _said(message)["content"].strip() == prompt.strip():
            return answer[: i + 1], answer[i + 1 :]
    return None


def num_common_messages(one: Messages, other: Messages) -> int:
    """The number of messages with which both begin; at least one of each remains."""
    num = 0
    most = min(len(one), len(other)) - 1
    while num < most and _said(one[num]) == _said(other[num]):
        num += 1
    return num


def repeats_text(prompt: str, answer: str) -> bool:
    """Whether an answer begins with the whole prompt and continues after it.

    A prompt that ends within a word of the answer ("a", "apple") is a coincidence and does not
    count.
    """
    if not prompt.strip() or not answer.startswith(prompt) or len(answer) == len(prompt):
        return False
    return not (prompt[-1].isalnum() and answer[len(prompt)].isalnum())


def common_text(one: str, other: str) -> str:
    """The common beginning of both texts, up to the end of a word; some of each remains."""
    most = min(len(one), len(other)) - 1
    num = next((i for i in range(most) if one[i] != other[i]), max(most, 0))
    while num and not one[num - 1].isspace():
        num -= 1
    return one[:num].rstrip(" ")  # a space belongs to the next word's token


def _said(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message without the keys that do not change its text."""
    said = {name: each for name, each in message.items() if name != "weight"}
    content = said.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        said["content"] = "\n".join(part["text"] for part in content)
    return {**said, "content": said.get("content") or ""}


def _is_system(message: Mapping[str, Any]) -> bool:
    return message["role"] in ("system", "developer")
