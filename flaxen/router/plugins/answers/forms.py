"""Whole answers: one made of a text, and whether one is finished."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.router.plugins.reply import Json

_OPENAI_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def text_answer(api: str, text: str, model: str, answer_id: str, created: int) -> dict[str, Any]:
    """The whole answer of an API whose only content is a text, which took no tokens.

    Args:
      api: any but embeddings.
      answer_id: unique, without the API's prefix.
      created: the time in seconds since 1970.
    """
    if api == "messages":
        return {
            "id": f"msg_{answer_id}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
    if api == "responses":
        return _response(text, model, answer_id, created)
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    is_chat = api == "chat"
    if is_chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = text
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{answer_id}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": dict(_OPENAI_USAGE),
    }


def _response(text: str, model: str, answer_id: str, created: int) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": f"resp_{answer_id}",
        "object": "response",
        "created_at": created,
        "completed_at": created,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [
            {
                "id": f"msg_{answer_id}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [part],
            }
        ],
        "parallel_tool_calls": True,
        "store": False,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
    }


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
