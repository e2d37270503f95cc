"""The fields of the bodies of the routes that pool, with OpenAI's, vLLM's and Jina's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from flaxen.pooling.params import PoolingParams
from flaxen.pooling_routes.encoding import ByteOrder, NumberFormat
from flaxen.protocol import FieldError
from flaxen.server.errors import invalid
from flaxen.server.generation.fields_without_effect import Rule
from flaxen.server.schema import StrictBody, Whole, parse


class CommonBody(StrictBody):
    """The fields that all routes share."""

    model: str | None = None
    request_id: str | None = None
    user: str | None = None  # OpenAI's, for its own statistics: without effect
    truncate_prompt_tokens: Whole | None = None
    truncation_side: Literal["left", "right"] | None = None
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
                truncation_side=self.truncation_side or "right",
                prompt_name=self.prompt_name,
            )
        except FieldError as error:
            raise invalid(str(error), error.field) from None


class InputBody(StrictBody):
    """The fields of /v1/embeddings, /pooling and /classify."""

    input: Any = None  # read in inputs.py: a text, texts, ids, or lists of ids
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = None
    embed_dtype: NumberFormat | None = None
    endianness: ByteOrder | None = None
    add_special_tokens: bool | None = None
    task: str | None = None  # what the model does; another one is refused
    # A chat in place of the input, written by the model's template.
    messages: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


_Texts = str | list[str] | None


class ScoreBody(StrictBody):
    """The fields of /v1/score: one text or several, and those that they are compared with. Each
    side has the names that vLLM had for it over time.
    """

    text_1: _Texts = None
    queries: _Texts = None
    data_1: _Texts = None
    text_2: _Texts = None
    documents: _Texts = None
    items: _Texts = None
    data_2: _Texts = None

    def first(self) -> tuple[list[str], str]:
        """Returns the texts that are compared, and the name of the field that has them.

        Raises:
          ApiError: 400, it is not there, or there twice.
        """
        return self._side("text_1", "queries", "data_1")

    def second(self) -> tuple[list[str], str]:
        """What the first side is compared with, and its field's name; raises as `first`."""
        return self._side("text_2", "documents", "items", "data_2")

    def _side(self, *names: str) -> tuple[list[str], str]:
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise invalid(
                f"give one of {', '.join(names)}, which mean the same; got "
                f"{' and '.join(given) or 'none'}",
                given[-1] if given else names[0],
            )
        [name] = given
        texts = getattr(self, name)
        return [texts] if isinstance(texts, str) else texts, name


# Fields of Text Embeddings Inference, which its clients send with their defaults.
RERANK_WITHOUT_EFFECT = {
    "raw_scores": Rule(lambda value: value is False, "use_activation = false gives raw scores"),
    "truncate": Rule(lambda value: value is False, "truncate_prompt_tokens = -1 cuts long texts"),
    "truncation_direction": Rule(
        lambda value: value in ("Right", "Left", "right", "left"), "it must be Right or Left"
    ),
}


class RerankBody(StrictBody):
    """The fields of /v1/rerank; `texts` are documents as Text Embeddings Inference calls them."""

    query: str
    documents: list[Any] | None = None  # texts, or objects with a text
    texts: list[str] | None = None
    top_n: Whole | None = None
    return_documents: bool | None = None
    return_text: bool | None = None
    max_tokens_per_doc: Whole | None = None  # cuts longer documents; 0 does not


def split(fields: Mapping[str, Any]) -> tuple[CommonBody, dict[str, Any]]:
    """Parses the common fields; returns them and the others.

    Raises:
      ApiError: 400 with the first wrong field as its param.
    """
    names = CommonBody.model_fields
    common = {name: value for name, value in fields.items() if name in names}
    own = {name: value for name, value in fields.items() if name not in names}
    return parse(CommonBody, common), own
