"""Checks whether a model supports a request's embeddings and pooling.

Deliberately does not know: the limits of an engine, which `validate` checks.
"""

from __future__ import annotations

import numpy as np

from flaxen.models.model import Model
from flaxen.protocol import FieldError, Request


def check_inputs(model: Model, request: Request) -> None:
    """Checks a request's embeddings and pooling against a model.

    Raises:
      FieldError: the model takes no embeddings, or those of another size, or it can't pool.
    """
    if request.pooling is None and not model.generates:
        raise FieldError(
            "model",
            "this model generates no text: it is an encoder, has a classification head, or is "
            "served with --runner pooling. Ask it for embeddings or scores (/v1/embeddings, "
            "/v1/score, /classify, /pooling; LLM.embed, LLM.score, LLM.classify)",
        )
    if request.pooling is not None and model.final_norm_on is None:
        raise FieldError(
            "pooling",
            "pooling needs hidden states after the final norm, and this model, a definition of "
            "somebody else's, does not give them: serve it with our decoder (--impl flaxen)",
        )
    for span in request.prompt_embeds:
        if model.embed_dim is None:
            raise FieldError(
                "prompt_embeds",
                "prompt_embeds were given, and this model, a definition of somebody else's, takes "
                "nothing but tokens: serve it with our decoder (--impl flaxen)",
            )
        width = np.shape(span.values)[1]
        if width != model.embed_dim:
            raise FieldError(
                "prompt_embeds",
                f"embeddings of prompt_embeds have {width} numbers each, and the model takes "
                f"{model.embed_dim}",
            )
