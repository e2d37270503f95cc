"""POST /v2/embed, as Cohere has it: each text's embedding in several number formats at once.

Deliberately does not know images, which no model here reads.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from flaxen.pooling.answers import embedding
from flaxen.pooling.params import MODEL_LENGTH, PoolingParams
from flaxen.pooling_routes.encoding import to_base64
from flaxen.pooling_routes.inputs import read_inputs
from flaxen.pooling_routes.run import Asked, ask, vectors
from flaxen.protocol import FieldError
from flaxen.server.body import read_json
from flaxen.server.context import Context
from flaxen.server.errors import invalid
from flaxen.server.schema import StrictBody, Whole, parse

EmbeddingType = Literal["float", "base64", "binary", "ubinary"]
_FIELD_NAMES = {"dimensions": "output_dimension", "truncate_prompt_tokens": "max_tokens"}


class EmbedBody(StrictBody):
    """The fields of /v2/embed."""

    model: str | None = None
    texts: list[str] = Field(min_length=1)
    input_type: str | None = None  # which of the model's prompts to put before each text
    embedding_types: list[EmbeddingType] | None = None
    output_dimension: Whole | None = None
    truncate: Literal["NONE", "START", "END"] | None = None  # where longer texts are cut; END
    max_tokens: Whole | None = None  # to how many tokens; the model's length


async def embed(context: Context, http: HttpRequest) -> Response:
    """Answers POST /v2/embed."""
    context.engine.check_health()
    body = parse(EmbedBody, await read_json(http, context.config, context.bodies))
    asked = ask(context, body.model, _params(context, body), "embed", _FIELD_NAMES)
    inputs = await read_inputs(context, asked, body.texts, field="texts")
    found = await vectors(context, http, asked, inputs, field="texts", prefix="embd")
    if found is None:
        return Response(status_code=499)
    pooled, answer_id, usage = found
    billed = {"input_tokens": usage.num_prompt, "image_tokens": 0}
    return JSONResponse(
        {
            "id": answer_id,
            "embeddings": _embeddings(asked, pooled, body.embedding_types or ["float"]),
            "texts": body.texts,
            "meta": {"api_version": {"version": "2"}, "billed_units": billed},
            "response_type": "embeddings_by_type",
        }
    )


def _params(context: Context, body: EmbedBody) -> PoolingParams:
    """The same options by our names.

    Raises:
      ApiError: 400, a value is out of range, or the model has no such prompt.
    """
    pooling = context.engine.info.pooling
    prompts = () if pooling is None else tuple(pooling.prompts)
    if body.input_type is not None and body.input_type not in prompts:
        raise invalid(
            f"Unsupported input_type {body.input_type!r}: the model has "
            f"{'the prompts ' + ', '.join(prompts) if prompts else 'no prompts: leave it out'}",
            "input_type",
        )
    most = MODEL_LENGTH if body.max_tokens is None else body.max_tokens
    try:
        return PoolingParams(
            dimensions=body.output_dimension,
            prompt_name=body.input_type,
            truncate_prompt_tokens=None if body.truncate == "NONE" else most,
            truncation_side="left" if body.truncate == "START" else "right",
        )
    except FieldError as error:
        raise invalid(str(error), _FIELD_NAMES.get(error.field, error.field)) from None


def _embeddings(
    asked: Asked, pooled: list[tuple[float, ...]], types: list[EmbeddingType]
) -> dict[str, Any]:
    """The embeddings by type; of binary ones each bit says whether a number is not negative."""
    try:
        whole = [embedding(each, asked.pooling, asked.params) for each in pooled]
    except FieldError as error:
        raise invalid(str(error), "output_dimension") from None
    if len(whole[0]) % 8 and not {"binary", "ubinary"}.isdisjoint(types):
        raise invalid(
            f"binary embeddings need a multiple of 8 numbers, and these have {len(whole[0])}: "
            "choose another output_dimension",
            "embedding_types",
        )
    bits = [np.packbits(each >= 0) for each in whole]
    made: dict[EmbeddingType, Any] = {
        "float": [each.tolist() for each in whole],
        "base64": [to_base64(each) for each in whole],
        "ubinary": [each.tolist() for each in bits],
        # Cohere's signed bytes are the unsigned ones minus 128.
        "binary": [(each.astype(np.int16) - 128).tolist() for each in bits],
    }
    return {name: made[name] for name in dict.fromkeys(types)}
