"""The fields of the bodies of the routes that pool, with OpenAI's, vLLM's and Jina's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from flaxen.pooling.params import PoolingParams
from flaxen.protocol import FieldError
from flaxen.server.errors import invalid
from flaxen.server.schema import STRICT, Whole, parse


class CommonBody(BaseModel):
    """The fields that all routes share."""

    model_config = STRICT

    model: str | None = None
    request_id: str | None = None
    user: str | None = None  # OpenAI's, for its own statistics: without effect
    truncate_prompt_tokens: Whole | None = None
    dimensions: Whole | None = None
    normalize: bool | None = None
    use_activation: bool | None = None
    prompt_name: str | None = None

    def params(self) -> PoolingParams:
        """The options.

        Raises:
          ApiError: 400, one is out of range.
        """
        try:
            return PoolingParams(
                dimensions=self.dimensions,
                normalize=self.normalize,
                use_activation=self.use_activation,
                truncate_prompt_tokens=self.truncate_prompt_tokens,
                prompt_name=self.prompt_name,
            )
        except FieldError as error:
            raise invalid(str(error), error.field) from None


class InputBody(BaseModel):
    """The fields of /v1/embeddings, /pooling and /classify."""

    model_config = STRICT

    input: Any  # read in inputs.py: a text, texts, ids, or lists of ids
    encoding_format: Literal["float", "base64"] | None = None
    add_special_tokens: bool | None = None


class ScoreBody(BaseModel):
    """The fields of /v1/score: one text or several, and those that they are compared with."""

    model_config = STRICT

    text_1: str | list[str]
    text_2: str | list[str]


class RerankBody(BaseModel):
    """The fields of /v1/rerank."""

    model_config = STRICT

    query: str
    documents: list[Any]  # texts, or objects with a text
    top_n: Whole | None = None
    return_documents: bool | None = None


def split(fields: Mapping[str, Any]) -> tuple[CommonBody, dict[str, Any]]:
    """Parses the common fields; returns them and the others.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    names = CommonBody.model_fields
    common = {name: value for name, value in fields.items() if name in names}
    own = {name: value for name, value in fields.items() if name not in names}
    return parse(CommonBody, common), own
