"""The field `prediction` of a chat: what the answer will mostly be (OpenAI's predicted outputs).

Knows: the fields that OpenAI refuses beside it. Deliberately does not know how drafts are made.
"""

from __future__ import annotations

from flaxen.server.context import Context
from flaxen.server.errors import unsupported
from flaxen.server.generation.bodies import ChatBody, CommonBody
from flaxen.server.generation.messages import read_content, text_of
from flaxen.server.generation.prompts import encode


async def read_prediction(body: ChatBody, common: CommonBody, context: Context) -> tuple[int, ...]:
    """The tokens of the prediction; empty without one.

    Raises:
      ApiError: 400, the server takes no predictions, or not beside other fields of the body; and as
          in `encode`.
    """
    if body.prediction is None:
        return ()
    if not context.engine.info.takes_predictions:
        raise unsupported(
            "prediction is refused: this server makes no drafts of a text that it is given. Start "
            """it with --speculative-config '{"method": "ngram"}', or leave the field out: the """
            "answer is the same",
            "prediction",
        )
    for name, is_asked in (
        ("n", common.n not in (None, 1)),
        ("logprobs", body.logprobs),
        ("presence_penalty", (common.presence_penalty or 0) > 0),
        ("frequency_penalty", (common.frequency_penalty or 0) > 0),
        ("max_completion_tokens", body.max_completion_tokens is not None),
        ("tools", body.tools),
        ("functions", body.functions),
    ):
        if is_asked:
            instead = (
                "use max_tokens" if name == "max_completion_tokens" else "leave one of them out"
            )
            raise unsupported(
                f"{name} can't be combined with prediction, as in OpenAI's API: {instead}", name
            )
    text = text_of(read_content(body.prediction.content, "prediction.content"))
    [token_ids] = await encode([text], False, context)
    return tuple(token_ids)
