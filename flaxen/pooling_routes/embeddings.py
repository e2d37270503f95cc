"""POST /v1/embeddings as OpenAI has it, and vLLM's /pooling and /classify."""

from __future__ import annotations

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.pooling.answers import embedding, probabilities
from flaxen.pooling_routes.bodies import InputBody
from flaxen.pooling_routes.encoding import bytes_answer, to_base64
from flaxen.pooling_routes.inputs import read_body
from flaxen.pooling_routes.run import Asked, read, vectors
from flaxen.protocol import FieldError
from flaxen.protocol.pooling import PoolingTask
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.schema import parse
from flaxen.server.usage import Usage


async def embed(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v1/embeddings."""
    return await _answer(context, http, "embed", "embd", "embedding", "embedding")


async def pool(context: Context, http: HttpRequest) -> Response:
    """Answers POST /pooling: embeddings, or the labels' scores, whichever the model gives."""
    return await _answer(context, http, None, "pool", "pooling", "data")


async def classify(context: Context, http: HttpRequest) -> Response:
    """Answers POST /classify."""
    found = await _pooled(context, http, "classify", "classify")
    if found is None:
        return Response(status_code=499)
    asked, body, values, answer_id, usage = found
    if body.encoding_format not in (None, "float"):
        raise invalid(
            f"encoding_format {body.encoding_format} is of embeddings: leave it out",
            "encoding_format",
        )
    data = [
        {
            "index": i,
            "label": asked.pooling.labels[int(np.argmax(probs))],
            "probs": probs.tolist(),
            "num_classes": len(probs),
        }
        for i, probs in enumerate(values)
    ]
    return JSONResponse(asked.envelope(answer_id, usage, data=data))


async def _answer(
    context: Context,
    http: HttpRequest,
    task: PoolingTask | None,
    prefix: str,
    object_name: str,
    key: str,
) -> Response:
    found = await _pooled(context, http, task, prefix)
    if found is None:
        return Response(status_code=499)
    asked, body, values, answer_id, usage = found
    form = body.embed_dtype or "float32", body.endianness or "little"
    if body.encoding_format in ("bytes", "bytes_only"):
        with_metadata = body.encoding_format == "bytes"
        envelope = asked.envelope(answer_id, usage)
        return bytes_answer(envelope, values, *form, with_metadata=with_metadata)
    in_base64 = body.encoding_format == "base64"
    data = [
        {"index": i, "object": object_name, key: to_base64(v, *form) if in_base64 else v.tolist()}
        for i, v in enumerate(values)
    ]
    return JSONResponse(asked.envelope(answer_id, usage, data=data))


async def _pooled(
    context: Context, http: HttpRequest, task: PoolingTask | None, prefix: str
) -> tuple[Asked, InputBody, list[np.ndarray], str, Usage] | None:
    """The embedding or the probabilities of each input; None if the client has gone."""
    asked, own = await read(context, http, task)
    body = parse(InputBody, own)
    if body.task is not None and body.task != asked.pooling.task:
        raise invalid(
            f"Unsupported task: {body.task[:80]!r}: {asked.model} does {asked.pooling.task}", "task"
        )
    if body.encoding_format in (None, "float") and (body.embed_dtype or body.endianness):
        raise invalid(
            "embed_dtype and endianness say how numbers become bytes: set encoding_format to "
            "base64, bytes or bytes_only",
            "embed_dtype" if body.embed_dtype else "endianness",
        )
    inputs = await read_body(context, asked, body)
    pooled = await vectors(context, http, asked, inputs, field="input", prefix=prefix)
    if pooled is None:
        return None
    found, answer_id, usage = pooled
    make = embedding if asked.pooling.task == "embed" else probabilities
    try:
        values = [make(each, asked.pooling, asked.params) for each in found]
    except FieldError as error:
        raise invalid(str(error), error.field) from None
    return asked, body, values, answer_id, usage
