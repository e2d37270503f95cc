"""Describes the routes of what a server stores: files, batches, jobs, chats and adapters."""

from __future__ import annotations

from flaxen.api_description.bodies import Schemas
from flaxen.api_description.operation import (
    BYTES,
    PAGING,
    PLAIN,
    Operation,
    Schema,
    json_of,
    reading,
)
from flaxen.job_routes.batches.routes import BatchBody
from flaxen.job_routes.files.routes import PURPOSES
from flaxen.job_routes.fine_tuning.job_schema import JobBody
from flaxen.responses_routes.chats import UpdateBody
from flaxen.server.schema import LoadAdapterBody, UnloadAdapterBody

_JOB = "/v1/fine_tuning/jobs/{job_id}"
_BATCH = "/v1/batches/{batch_id}"
_CHATS = "/v1/chat/completions"
_CHAT = f"{_CHATS}/{{completion_id}}"
_STORED = (400, 404, 409, 429, 500)  # the errors of what is stored


_ORDER: Schema = {"enum": ["asc", "desc"]}
_UPLOAD: Schema = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"contentMediaType": "application/octet-stream"},
        "purpose": {"enum": list(PURPOSES)},
    },
}
Operations = dict[tuple[str, str], Operation]  # by method and path


def stored_operations(schemas: Schemas) -> Operations:
    """The routes of files, batches, jobs, chats and adapters."""
    return {**_chats(schemas), **_adapters(schemas), **_files(schemas), **_jobs(schemas)}


def _operation(summary: str, answer: str) -> Operation:
    return Operation(summary=summary, answers=json_of(answer), errors=_STORED)


def _page(summary: str, answer: str, **query: Schema) -> Operation:
    return Operation(
        summary=summary, answers=json_of(answer), errors=_STORED, query={**PAGING, **query}
    )


def _up_to(most: int) -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": most}


def _chats(schemas: Schemas) -> Operations:
    return {
        ("GET", _CHATS): _page(
            "The chats.", "ChatCompletions", model={"type": "string"}, order=_ORDER
        ),
        ("GET", _CHAT): _operation("A chat.", "ChatCompletion"),
        ("POST", _CHAT): reading(
            "Gives a chat other metadata.", schemas.body(UpdateBody), json_of("ChatCompletion")
        ),
        ("DELETE", _CHAT): _operation("Deletes a chat.", "Deleted"),
        ("GET", f"{_CHAT}/messages"): _page("What was asked.", "ChatMessages", order=_ORDER),
    }


def _adapters(schemas: Schemas) -> Operations:
    return {
        ("POST", "/v1/load_lora_adapter"): reading(
            "Loads an adapter.", schemas.body(LoadAdapterBody), PLAIN
        ),
        ("POST", "/v1/unload_lora_adapter"): reading(
            "Unloads an adapter.", schemas.body(UnloadAdapterBody), PLAIN
        ),
    }


def _files(schemas: Schemas) -> Operations:
    return {
        ("POST", "/v1/files"): Operation(
            summary="Uploads a file.",
            body=_UPLOAD,
            body_type="multipart/form-data",
            answers=json_of("File"),
            errors=(400, 408, 413, 415, 500, 507),
        ),
        ("GET", "/v1/files"): _page(
            "The files.",
            "Files",
            limit=_up_to(10_000),
            purpose={"type": "string"},
            order=_ORDER,
        ),
        ("GET", "/v1/files/{file_id}"): _operation("A file.", "File"),
        ("GET", "/v1/files/{file_id}/content"): Operation(
            summary="A file's bytes.",
            answers={BYTES: {"type": "string"}},
            errors=_STORED,
        ),
        ("DELETE", "/v1/files/{file_id}"): _operation("Deletes a file.", "Deleted"),
        ("POST", "/v1/batches"): reading(
            "Answers a file of requests.", schemas.body(BatchBody), json_of("Batch")
        ),
        ("GET", "/v1/batches"): _page("The batches.", "Batches"),
        ("GET", _BATCH): _operation("A batch.", "Batch"),
        ("POST", f"{_BATCH}/cancel"): _operation("Ends a batch.", "Batch"),
    }


def _jobs(schemas: Schemas) -> Operations:
    return {
        ("POST", "/v1/fine_tuning/jobs"): reading(
            "Creates a job.", schemas.body(JobBody), json_of("FineTuningJob")
        ),
        ("GET", "/v1/fine_tuning/jobs"): _page("The jobs.", "FineTuningJobs"),
        ("GET", _JOB): _operation("A job.", "FineTuningJob"),
        ("POST", f"{_JOB}/cancel"): _operation("Ends a job.", "FineTuningJob"),
        ("POST", f"{_JOB}/pause"): _operation("Lets a job rest.", "FineTuningJob"),
        ("POST", f"{_JOB}/resume"): _operation("Lets it go on.", "FineTuningJob"),
        ("GET", f"{_JOB}/events"): _page(
            "What a job tells.", "FineTuningEvents", limit=_up_to(1000)
        ),
        ("GET", f"{_JOB}/checkpoints"): _page(
            "Its models.", "FineTuningCheckpoints", limit=_up_to(1000)
        ),
        ("DELETE", "/v1/models/{name:path}"): Operation(
            summary="Deletes a model that a job made.",
            answers=json_of("Deleted"),
            errors=(*_STORED, 403),
        ),
    }
