"""How long a request's prefix is kept: our own fields, vLLM's and OpenAI's.

Deliberately does not know how it is kept.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flaxen.protocol import MAX_TTL_S
from flaxen.server.schema import StrictBody


class RetentionBody(StrictBody):
    """The field `retention` as an object."""

    ttl_s: float = Field(gt=0, le=MAX_TTL_S)


RetentionField = RetentionBody | Literal["done", "drop"]
OpenAIRetention = Literal["in_memory", "in-memory", "24h"]


def read_retention(
    given: RetentionField | None, openai: OpenAIRetention | None
) -> float | Literal["done", "drop"] | None:
    """What `Request.retention` is.

    Args:
      given: the field `retention`, which goes before the other.
      openai: the field `prompt_cache_retention`; in memory is as long as there is room.
    """
    if isinstance(given, RetentionBody):
        return given.ttl_s
    if given is None and openai == "24h":
        return float(MAX_TTL_S)
    return given
