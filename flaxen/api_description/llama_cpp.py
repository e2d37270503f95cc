"""Describes llama.cpp's own routes, by method and path."""

from __future__ import annotations

from flaxen.api_description.answers import EVENT_STREAM
from flaxen.api_description.bodies import Schemas
from flaxen.api_description.operation import (
    ENGINE_ERRORS,
    EVENTS,
    JSON,
    Operation,
    Schema,
    reading,
    ref,
)
from flaxen.llama_cpp_routes import bodies, infill
from flaxen.server.generation import fields_without_effect as without_effect
from flaxen.server.generation.bodies import ChatBody, CommonBody


def llama_cpp_operations(schemas: Schemas) -> dict[tuple[str, str], Operation]:
    """The routes, by method and path."""
    pairs = {"type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2}}
    body = schemas.body(
        CommonBody,
        bodies.CompletionBody,
        without_effect=bodies.WITHOUT_EFFECT,
        forms={"prompt": {}, "logit_bias": {"anyOf": [{"type": "object"}, pairs]}},
    )
    fields = body["properties"]
    named = {theirs: fields[ours] for theirs, ours in bodies.NAMES.items()}
    body = {**body, "properties": {**fields, **named}}
    gap = schemas.body(infill.InfillBody)
    filled = {
        **body,
        "properties": {**body["properties"], **gap["properties"]},
        "required": gap["required"],
    }
    continued = ref("Continued")
    whole: Schema = {"anyOf": [continued, {"type": "array", "items": continued}]}
    chat = schemas.body(CommonBody, ChatBody, without_effect=without_effect.CHAT)
    count = reading("The number of tokens of messages.", chat, {JSON: ref("CountedTokens")})
    return {
        ("POST", "/completion"): Operation(
            summary="Continues prompts.",
            body=body,
            answers={JSON: whole, EVENTS: EVENT_STREAM},
            errors=ENGINE_ERRORS,
        ),
        ("POST", "/infill"): Operation(
            summary="Fills a gap between two texts.",
            body=filled,
            answers={JSON: continued, EVENTS: EVENT_STREAM},
            errors=ENGINE_ERRORS,
        ),
        ("POST", "/apply-template"): reading("The text of messages.", chat, {JSON: ref("Prompt")}),
        ("GET", "/props"): Operation(summary="What is served.", answers={JSON: ref("Props")}),
        **dict.fromkeys(
            [("POST", f"{v}/chat/completions/input_tokens") for v in ("/v1", "")], count
        ),
    }
