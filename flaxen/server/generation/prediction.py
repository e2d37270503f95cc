"""The field `prediction` of a chat: what the answer will mostly be (OpenAI's predicted outputs).

Deliberately does not know how drafts are made.
"""

from __future__ import annotations

from flaxen.server.context import Context
from flaxen.server.errors import unsupported
from flaxen.server.generation.bodies import ChatBody
from flaxen.server.generation.messages import read_content, text_of
from flaxen.server.generation.prompts import encode


async def read_prediction(body: ChatBody, context: Context) -> tuple[int, ...]:
    """The tokens of the prediction; empty without one.

    Raises:
      ApiError: 400, the server takes no predictions; and as in `encode`.
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
    text = text_of(read_content(body.prediction.content, "prediction.content"))
    [token_ids] = await encode([text], False, context)
    return tuple(token_ids)
