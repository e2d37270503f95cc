"""Chats that are kept: the chat route, which keeps those with store=true, and the routes of them.

Deliberately does not know how a chat is answered, nor where it is kept.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.protocol import Request
from flaxen.responses_routes.responses import Responses
from flaxen.responses_routes.stored import MAX_ID_CHARS, ResponseStore, StoredResponse
from flaxen.server.body import read_json
from flaxen.server.config import ServerConfig
from flaxen.server.context import Context
from flaxen.server.errors import invalid, not_found
from flaxen.server.generation import chat
from flaxen.server.generation.answer import Asked, answer
from flaxen.server.generation.answer_json import ChunkWriter
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.chat import ChatView
from flaxen.server.generation.engine_streams import EngineStreams
from flaxen.server.generation.message import joined
from flaxen.server.paging import list_json, read_paging
from flaxen.server.schema import Metadata, StrictBody, parse

_KEEPING = {
    name: rule
    for name, rule in chat.BODY.without_effect.items()
    if name not in ("store", "metadata")
}


class UpdateBody(StrictBody):
    """The fields of an update."""

    metadata: Metadata | None


async def create(responses: Responses, context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions, and keeps the chat if its body says so.

    Raises:
      ApiError: as in `answer`; 400, the metadata or the id can't be kept.
    """
    store = responses.chats
    route = replace(
        chat.ROUTE,
        reads=replace(chat.BODY, without_effect=_KEEPING, parse=_parse),
        stream=functools.partial(_stream, store),
        keep=functools.partial(_keep, store),
    )
    return await answer(context, http, route)


async def _parse(context: Context, body: ChatBody, asked: Asked) -> tuple[list[Request], ChatView]:
    if body.store:
        parse(UpdateBody, {"metadata": body.metadata})
    if body.store and len(asked.answer_id) > MAX_ID_CHARS:
        raise invalid(
            f"store=true needs an id of at most {MAX_ID_CHARS} characters, got {asked.answer_id}: "
            "shorten the request's id",
            "store",
        )
    return await chat.parse(context, body, asked)


async def _keep(store: ResponseStore, view: ChatView, whole: dict[str, Any]) -> None:
    if view.body.store:
        noted = whole | {"metadata": view.body.metadata or {}}
        await store.put(StoredResponse(response=noted, items=view.body.messages))


async def _stream(
    store: ResponseStore, view: ChatView, streams: EngineStreams, writer: ChunkWriter
) -> AsyncGenerator[str, None]:
    chunks: list[dict[str, Any]] = []
    make_chunks = chat.ROUTE.stream
    assert make_chunks is not None, "chats stream"
    async for chunk in make_chunks(view, streams, writer):
        if view.body.store:
            chunks.append(json.loads(chunk))
        yield chunk
    if chunks:
        counted = {"usage": writer.usage.json(), "weights_version": writer.usage.weights_version}
        await _keep(store, view, _whole(view, chunks) | counted)


def _whole(view: ChatView, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer of a stream's chunks, in the form in which it is answered at once."""
    parts: list[list[dict[str, Any]]] = [[] for _ in range(view.n)]
    for chunk in chunks:
        for choice in chunk["choices"]:
            parts[choice["index"]].append(choice)
    return {
        "prompt_token_ids": None,
        **chunks[0],
        "object": chat.ROUTE.object,
        "prompt_logprobs": None,
        "choices": [_choice(index, each) for index, each in enumerate(parts)],
        "service_tier": None,
        "kv_transfer_params": None,
    }


def _choice(index: int, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    opening = {name: text for name, text in parts[0]["delta"].items() if text and name != "role"}
    entries = [entry for part in parts for entry in (part["logprobs"] or {}).get("content", ())]
    ids = [each for part in parts for each in part.get("token_ids") or ()]
    return {
        "index": index,
        "message": joined([opening, *(part["delta"] for part in parts[1:])]),
        "logprobs": {"content": entries, "refusal": None} if entries else None,
        "finish_reason": parts[-1]["finish_reason"],
        "stop_reason": parts[-1].get("stop_reason"),
        "token_ids": ids or None,
    }


async def list_chats(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/chat/completions: those of a model and with metadata, if the query has them.

    Raises:
      ApiError: 400, the query is wrong; 404, no chat has the id `after`.
    """
    query = http.query_params
    wanted = {
        name[len("metadata[") : -1]: value
        for name, value in query.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    names = ("model", *(f"metadata[{name}]" for name in wanted))
    paging = read_paging(http, order="asc", others=names)
    model = query.get("model")

    def keeps(kept: Mapping[str, Any]) -> bool:
        return wanted.items() <= kept["metadata"].items() and model in (None, kept["model"])

    return list_json(await responses.chats.page(paging, keeps))


async def retrieve(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/chat/completions/{completion_id}.

    Raises:
      ApiError: 404, it is not kept.
    """
    return JSONResponse(dict((await _find(responses, http)).response))


async def update(responses: Responses, http: HttpRequest) -> Response:
    """Answers POST /v1/chat/completions/{completion_id}: gives it other metadata.

    Raises:
      ApiError: 400, the body is wrong; 404, it is not kept; and as in `read_json`.
    """
    body = parse(UpdateBody, await read_json(http, ServerConfig(), responses.bodies))
    found = await _find(responses, http)
    changed = replace(found, response={**found.response, "metadata": body.metadata or {}})
    await responses.chats.put(changed)
    return JSONResponse(dict(changed.response))


async def delete(responses: Responses, http: HttpRequest) -> Response:
    """Answers DELETE /v1/chat/completions/{completion_id}.

    Raises:
      ApiError: 404, it is not kept.
    """
    found = await _find(responses, http)
    await responses.chats.delete(found.id)
    return JSONResponse({"id": found.id, "object": "chat.completion.deleted", "deleted": True})


async def list_messages(responses: Responses, http: HttpRequest) -> Response:
    """Answers GET /v1/chat/completions/{completion_id}/messages: a page of what was asked.

    Raises:
      ApiError: 400, the query is wrong; 404, it is not kept, or no message has the id `after`.
    """
    paging = read_paging(http, order="asc")
    found = await _find(responses, http)
    messages = [_message(each, f"{found.id}-{i}") for i, each in enumerate(found.items)]
    return list_json(paging.page_of(reversed(messages) if paging.newest_first else messages))


def _message(message: dict[str, Any], message_id: str) -> dict[str, Any]:
    content = message.get("content")
    parts = content if isinstance(content, list) else None
    shown = {"content": None if parts else content, "content_parts": parts}
    return {"name": None, "refusal": None, **message, **shown, "id": message_id}


async def _find(responses: Responses, http: HttpRequest) -> StoredResponse:
    completion_id = http.path_params["completion_id"]
    found = await responses.chats.get(completion_id)
    if found is None:
        raise not_found("kept chat", completion_id, "completion_id")
    return found
