"""The plugin fast_response."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.router.checks import check_named
from flaxen.router.plugins.answers.forms import text_answer
from flaxen.router.plugins.answers.streams import answer_reply
from flaxen.router.plugins.reply import Json, PluginError, Reply


@dataclass(frozen=True, kw_only=True)
class FastResponse:
    """Answers with a fixed text, without a model."""

    message: str

    def __post_init__(self) -> None:
        check_named("message", self.message)


def fast_reply(body: Json, api: str, plugin: FastResponse, request_id: str, now: float) -> Reply:
    """The answer in the form of the API, streamed if the request asks for that.

    Raises:
      PluginError: the request wants an embedding, which no text is.
    """
    if api == "embeddings":
        raise PluginError(
            "the decision answers with a text, and this request asks for embeddings: ask a model "
            "by its own name"
        )
    answer = text_answer(api, plugin.message, str(body.get("model", "")), request_id, int(now))
    return answer_reply(api, answer, body, {"x-vsr-fast-response": "true"})
