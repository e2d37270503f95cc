"""Describes the routes that `--server-dev-mode` adds, by method and path."""

from __future__ import annotations

from flaxen.api_description.bodies import Schemas
from flaxen.api_description.operation import JSON, TEXT, Operation, Schema, reading
from flaxen.control_routes.bodies import UpdateBody
from flaxen.engine.control import PauseMode, Tag


def control_operations(schemas: Schemas) -> dict[tuple[str, str], Operation]:
    """The routes, by method and path."""
    mode: Schema = {"enum": [mode.value for mode in PauseMode]}
    tags: Schema = {"type": "array", "items": {"enum": [tag.value for tag in Tag]}}

    def changing(summary: str, **query: Schema) -> Operation:
        answers: dict[str, Schema] = {JSON: {"type": "object"}, TEXT: {"type": "string"}}
        return Operation(summary=summary, answers=answers, errors=(400, 500, 503), query=query)

    def telling(summary: str) -> Operation:
        return Operation(summary=summary, answers={JSON: {"type": "object"}})

    return {
        ("POST", "/reset_prefix_cache"): Operation(
            summary="Forgets all cached prefixes.",
            answers={TEXT: {"type": "string"}},
            errors=(500, 503),
        ),
        ("POST", "/pause"): changing(
            "Lets requests wait.", mode=mode, clear_cache={"type": "boolean"}
        ),
        ("POST", "/resume"): changing("Ends a pause."),
        ("GET", "/is_paused"): telling("Whether requests wait."),
        ("POST", "/sleep"): changing("Frees memory.", level={"enum": [1, 2]}, mode=mode),
        ("POST", "/wake_up"): changing("Takes memory again.", tags=tags),
        ("GET", "/is_sleeping"): telling("Whether memory is freed."),
        ("POST", "/update_weights_from_disk"): reading(
            "Serves other weights of the same model.",
            schemas.body(UpdateBody),
            {JSON: {"type": "object"}},
        ),
    }
