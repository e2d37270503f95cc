"""Context: how many tokens a request needs of a model's context."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest, num_json_bytes
from flaxen.router.signals.checks import NamedRule
from flaxen.router.signals.found import Found
from flaxen.router.signals.patterns import as_bytes
from flaxen.router.signals.settings import CountTokens, Finder, SignalSettings

BYTES_PER_TOKEN = 4  # of text, where no tokenizer counts; of JSON each byte is one
TOKENS_PER_IMAGE = 8_192
TOKENS_PER_MESSAGE = 4
TOKENS_PER_CALL = 8  # of a tool, and per definition of one
_UNITS = {"": 1, "K": 1_000, "M": 1_000_000}
_COUNT = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:[eE][0-9]+)?)([KkMm]?)")
_GREATEST = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class ContextRule(NamedRule):
    """Whether a request needs at least `min_tokens` and at most `max_tokens`; both belong to it.

    Attributes:
      min_tokens, max_tokens: numbers, which may end in K (a thousand) or M (a million); "" for
        no bound.

    Raises:
      ValueError: both are missing, one is not a number of tokens, or they are the wrong way round.
    """

    min_tokens: str | int = ""
    max_tokens: str | int = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not f"{self.min_tokens}{self.max_tokens}".strip():
            raise ValueError("give min_tokens, max_tokens or both: without them every request is")
        low, high = self.bounds
        if low > high:
            raise ValueError(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}, so no "
                "request can be between them: exchange them, or remove one"
            )

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest number of tokens."""
        low, high = str(self.min_tokens).strip(), str(self.max_tokens).strip()
        return (
            read_count(low, "min_tokens") if low else 0,
            read_count(high, "max_tokens") if high else _GREATEST,
        )


def read_count(text: str, what: str) -> int:
    """The number of tokens that a text like "8001", "64K" or "1.5M" is.

    Raises:
      ValueError: it is no such number.
    """
    found = _COUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{what} {text!r} is not a number of tokens like 8001, 64K or 1.5M")
    number = float(found[1]) * _UNITS[found[2].upper()]
    if number >= _GREATEST:
        raise ValueError(f"{what} {text} is more tokens than any request has: remove it")
    return int(number)


def find_contexts(rules: Sequence[ContextRule], settings: SignalSettings) -> Finder:
    """The finder of a list of rules, which counts the tokens of a request once."""
    bounds = [rule.bounds for rule in rules]
    how = "estimated from bytes" if settings.count_tokens is None else "by the model's tokenizer"

    def find(request: RoutedRequest) -> list[Found]:
        number = num_tokens(request, settings.count_tokens)
        reason = f"{number} tokens, {how}"
        return [
            Found(matched=low <= number <= high, value=number, reason=reason)
            for low, high in bounds
        ]

    return find


def num_tokens(request: RoutedRequest, count_tokens: CountTokens | None = None) -> int:
    """The tokens that a request needs of a context: its texts, its tools and their calls, what
    frames them, its images, and the longest answer that it asks for."""
    texts = [text for message in request.messages for text in (message.role, message.text)]
    calls = [call for message in request.messages for call in message.tool_calls]
    texts += (call.id for call in calls)
    texts += (message.tool_call_id for message in request.messages)
    structured = [tool.definition for tool in request.tools]
    if request.response_format is not None:
        structured.append(request.response_format)
    framing = TOKENS_PER_MESSAGE * len(request.messages)
    framing += TOKENS_PER_CALL * (len(calls) + request.num_tools)
    images = TOKENS_PER_IMAGE * sum(message.num_images for message in request.messages)
    if count_tokens is None:
        num_bytes = sum(len(as_bytes(text)) for text in texts)
        content = math.ceil(num_bytes / BYTES_PER_TOKEN)
        content += sum(len(as_bytes(call.name + call.arguments)) for call in calls)
        content += sum(map(num_json_bytes, structured))
    else:
        texts += (f"{call.name} {call.arguments}" for call in calls)
        texts += (json.dumps(value, ensure_ascii=False) for value in structured)
        content = sum(count_tokens(text) for text in texts if text)
    return content + framing + images + (request.max_tokens or 0)
