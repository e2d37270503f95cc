"""Which requests have one answer: the key of the plugin response_cache."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flaxen.router.plugins.cache_settings import ResponseCache
from flaxen.router.plugins.header_mutation import HeaderMutation
from flaxen.router.plugins.reply import Json
from flaxen.router.signals.settings import Identity

_TEAM, _TENANT = "x-authz-team-id", "x-authz-tenant-id"
# Answers that change something at the server, or are not there when they are answered.
_NEVER = ("background", "conversation")
# Characters of a text that is compared: in a longer one, what differs is too little of its vector.
_MOST_TEXT = 1_000
_NUMBERS = re.compile(r"[-\u2212]?\d+(?:[.,]\d+)*")  # embeddings hardly tell one from another
_LISTS = {"chat": "messages", "messages": "messages", "responses": "input"}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What decides an answer beside the request.

    Attributes:
      model: the candidate that answers, by the name that only it has in the decision.
      weights: the version of its weights; "" where nobody knows it.
      headers: what a plugin changes of the headers that its server gets.
    """

    recipe: str
    decision: str
    model: str
    weights: str = ""
    headers: HeaderMutation = HeaderMutation()  # noqa: RUF009 - it is frozen


@dataclass(frozen=True)
class CacheKey:
    """What an answer is kept by.

    Attributes:
      exact: the same for requests that have the same answer, streamed or not.
      similar: the same for those that differ in the user's last text alone, and not in its numbers;
        "" if that is not all that counts, or too long to be compared, so that none is similar.
      text: that text, of which an embedding is compared.
    """

    exact: str
    similar: str
    text: str


def key_of(
    settings: ResponseCache,
    api: str,
    body: Json,
    headers: Mapping[str, str],
    source: Source,
    identity: Identity = Identity(),  # noqa: B008 - it is frozen
) -> CacheKey | None:
    """The key of a request; None if it has none: nobody knows for whom an answer may be kept, or
    its answer changes something.

    As in the public reference, a request that samples without a seed has one, too.

    Args:
      body: after the decision's plugins.
      headers: the client's, with lower-case names. Those that name a user, team or tenant must come
        from what stands before the router.
      identity: what names a user.
    """
    groups = headers.get(identity.user_groups_header, "").split(",")
    owner = {
        "user": headers.get(identity.user_id_header, ""),
        "team": headers.get(_TEAM) or groups[0].strip(),
        "tenant": headers.get(_TENANT, ""),
        "global": "all",
    }[settings.scope]
    if not owner or any(body.get(name) for name in _NEVER):
        return None
    options = body.get("stream_options") or {}
    if isinstance(options, Mapping):
        options = {k: v for k, v in options.items() if k != "include_usage"}
    asked = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
    # Headers of the APIs' makers, such as anthropic-beta, change what a server does.
    spoken = {k: v for k, v in headers.items() if k.startswith(("anthropic-", "openai-"))}
    rest = [api, options, spoken, asdict(source), asdict(settings.revision)]
    rest += [settings.scope, owner, headers.get(_TENANT, "")]
    others, text = _without_last_text(asked, _LISTS.get(api, ""))
    is_compared = settings.compares and 0 < len(text) <= _MOST_TEXT
    similar = _hash([rest, others, _NUMBERS.findall(text)]) if is_compared else ""
    return CacheKey(_hash([rest, asked]), similar, text)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


def _without_last_text(body: Json, name: str) -> tuple[Json, str]:
    """A body without the text of the user's message that it ends with, and that text; "" if it does
    not end so, or with more than one text."""
    value = body.get(name)
    if isinstance(value, str):
        return {**body, name: 0}, value
    last = value[-1] if isinstance(value, list) and value else None
    if isinstance(value, list) and isinstance(last, Mapping) and last.get("role") == "user":
        text: Any = last.get("content")
        rest: Any = 0
        if isinstance(text, list) and len(text) == 1 and isinstance(text[0], Mapping):
            text, rest = text[0].get("text"), [{**text[0], "text": 0}]
        if isinstance(text, str):
            return {**body, name: [*value[:-1], {**last, "content": rest}]}, text
    return body, ""
