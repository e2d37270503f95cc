"""The log-probabilities of answers, from which a cascade computes how sure a model is."""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from flaxen.router.selection.algorithms import Confidence
from flaxen.router.selection.cascade import TokenLogprobs

Json = Mapping[str, Any]
_Pair = tuple[str, float]
APIS = ("chat", "completions")  # those whose answers may have them, and are kept by no server


def with_logprobs(body: Json, api: str, settings: Confidence) -> Json:
    """A body that asks for the log-probabilities that a cascade reads, and those that the client
    asks for."""
    least = 0 if settings.confidence_method == "avg_logprob" else 2
    if api == "completions":
        return {**body, "logprobs": _most(body.get("logprobs") or 0, least)}
    asked = body.get("top_logprobs") or 0
    most = {"top_logprobs": _most(asked, least)} if asked or least else {}
    return {**body, "logprobs": True, **most}


def _most(asked: int, least: int) -> int:
    """So many entries for each token that both have theirs; below 0 are all, as in vLLM."""
    return asked if asked < 0 else max(asked, least)


def tokens_of(answer: Json, api: str, body: Json) -> list[TokenLogprobs]:
    """The tokens of an answer, of all its choices; none where its log-probabilities are not there,
    not in the form of the API, or those of the prompt, too.

    Args:
      body: of the client.
    """
    found: list[TokenLogprobs] = []
    try:
        for choice in () if body.get("echo") else answer["choices"]:
            for chosen, rest in _rows(choice.get("logprobs") or {}, api):
                if chosen in rest:  # once: other tokens may have the same text
                    rest.remove(chosen)
                second = max((value for _, value in rest), default=None)
                found.append(TokenLogprobs(chosen[1], second))
    except (KeyError, TypeError, AttributeError):
        return []
    return found


def _rows(told: Json, api: str) -> Iterator[tuple[_Pair, list[_Pair]]]:
    """Each token with its log-probability, and the likeliest ones in its place."""
    if api == "chat":
        for each in told.get("content") or ():
            tops = each.get("top_logprobs") or ()
            yield (each["token"], each["logprob"]), [(t["token"], t["logprob"]) for t in tops]
        return
    tops = told.get("top_logprobs") or itertools.repeat({})
    chosen = zip(told.get("tokens") or (), told.get("token_logprobs") or (), strict=False)
    for pair, top in zip(chosen, tops, strict=False):
        yield pair, list((top or {}).items())


def as_asked(answer: dict[str, Any], api: str, body: Json) -> dict[str, Any]:
    """An answer with the log-probabilities that the client asks for, and no others."""
    most = body.get("top_logprobs" if api == "chat" else "logprobs") or 0
    most = sys.maxsize if most < 0 else most
    wants = body.get("logprobs") not in (None, False)
    for choice in answer["choices"]:
        told = choice["logprobs"] = (choice.get("logprobs") or None) if wants else None
        if told is not None and api == "chat":
            for token in told.get("content") or ():
                token["top_logprobs"] = (token.get("top_logprobs") or [])[:most]
        elif told is not None:
            told["top_logprobs"] = [
                top and dict(heapq.nlargest(most, top.items(), key=lambda each: each[1]))
                for top in told.get("top_logprobs") or ()
            ]
    return answer
