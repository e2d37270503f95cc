"""Whole answers: one made of a text, and whether one is finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.router.plugins.reply import Json

# What a response made of a text says of its request.
_UNSET = ("error", "incomplete_details", "instructions", "temperature", "top_p")
_DETAILS = {
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}


def text_answer(api: str, text: str, model: str, answer_id: str, created: int) -> dict[str, Any]:
    """The whole answer of an API whose only content is a text, which took no tokens.

    Args:
      api: any but embeddings.
      answer_id: unique, without the API's prefix.
      created: the time in seconds since 1970.
    """
    message: dict[str, Any] = {"id": f"msg_{answer_id}", "type": "message", "role": "assistant"}
    usage = {"input_tokens": 0, "output_tokens": 0}
    if api == "messages":
        content = [{"type": "text", "text": text}]
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        return {**message, "model": model, "content": content, **end, "usage": usage}
    if api == "responses":
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {
            "id": f"resp_{answer_id}",
            "object": "response",
            "created_at": created,
            "completed_at": created,
            "status": "completed",
            "model": model,
            "output": [{**message, "status": "completed", "content": [part]}],
            **dict.fromkeys(_UNSET),
            "metadata": {},
            "parallel_tool_calls": True,
            "store": False,
            "tool_choice": "auto",
            "tools": [],
            "usage": {**usage, **_DETAILS, "total_tokens": 0},
        }
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    if api == "chat":
        names = {"id": f"chatcmpl-{answer_id}", "object": "chat.completion"}
        choice["message"] = {"role": "assistant", "content": text}
    else:
        names = {"id": f"cmpl-{answer_id}", "object": "text_completion"}
        choice["text"] = text
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return {**names, "created": created, "model": model, "choices": [choice], "usage": usage}


def is_finished(api: str, answer: Any) -> bool:
    """Whether a whole answer has the form of its API, and came to its end."""
    if not isinstance(answer, Mapping) or answer.get("error"):
        return False
    if api == "responses":
        return answer.get("status") in ("completed", "incomplete")
    if api == "messages":
        return answer.get("type") == "message" and bool(answer.get("stop_reason"))
    if api == "embeddings":
        return bool(answer.get("data"))
    choices = answer.get("choices")
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(each, Mapping) and each.get("finish_reason") for each in choices)
        and all(_has_content(api, each) for each in choices)
    )


def _has_content(api: str, choice: Json) -> bool:
    if api == "completions":
        return isinstance(choice.get("text"), str)
    return isinstance(choice.get("message"), Mapping)
