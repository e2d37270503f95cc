"""POST /v1/embeddings as OpenAI has it, and vLLM's /pooling and /classify."""

from __future__ import annotations

import base64

import numpy as np
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.pooling.answers import embedding, probabilities
from flaxen.pooling_routes.bodies import InputBody
from flaxen.pooling_routes.inputs import read_inputs
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
    if body.encoding_format == "base64":
        raise invalid("encoding_format base64 is of embeddings: leave it out", "encoding_format")
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
    in_base64 = body.encoding_format == "base64"
    data = [
        {"index": i, "object": object_name, key: _base64(each) if in_base64 else each.tolist()}
        for i, each in enumerate(values)
    ]
    return JSONResponse(asked.envelope(answer_id, usage, data=data))


async def _pooled(
    context: Context, http: HttpRequest, task: PoolingTask | None, prefix: str
) -> tuple[Asked, InputBody, list[np.ndarray], str, Usage] | None:
    """The embedding or the probabilities of each input; None if the client has gone."""
    asked = await read(context, http, task)
    body = parse(InputBody, asked.own)
    inputs = await read_inputs(
        context, asked, body.input, add_special_tokens=body.add_special_tokens is not False
    )
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


def _base64(values: np.ndarray) -> str:
    """The numbers as little-endian float32, as OpenAI's clients read them."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
