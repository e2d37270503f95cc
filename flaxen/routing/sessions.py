"""Sessions: which model answered a conversation last, so that it can be kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flaxen.router.selection.candidate import Candidate
from flaxen.router.selection.requirements import num_prompt_tokens
from flaxen.router.selection.sticking import Session
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.compiled import Router
from flaxen.routing.deciding import Routed
from flaxen.routing.upstream import Answer

_MOST = 100_000  # names of conversations, those that were not used for longest go first
_MOST_BYTES = 1 << 20  # of an answer that is searched for its id
Name = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a conversation is known by: the names it may have been noted under, the first that is
    known counts, and those that its next request may have."""

    known: tuple[Name, ...] = ()
    next: tuple[Name, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Noted:
    session: Session
    decision: str
    at_s: float


class Sessions:
    """The conversations of this process. Times are those of time.monotonic."""

    def __init__(self) -> None:
        self._noted: OrderedDict[Name, _Noted] = OrderedDict()

    def __len__(self) -> int:
        return len(self._noted)

    def of(self, names: Names, routed: Routed, router: Router) -> Session | None:
        """What is known of the conversation that a request continues; None if nothing is, or its
        model is there no longer."""
        noted = next((self._noted[name] for name in names.known if name in self._noted), None)
        if noted is None or noted.session.candidate.model not in router.targets:
            return None
        idle_s, drifted = time.monotonic() - noted.at_s, noted.decision != routed.name
        return replace(noted.session, idle_s=idle_s, has_drifted=drifted)

    def note(self, names: Names, routed: Routed, candidate: Candidate) -> None:
        """Notes the model of an answer that has begun, for the next request."""
        before, switches = routed.session, 0
        if before is not None:
            switches = before.num_switches + (before.candidate.model != candidate.model)
        session = Session(
            candidate=candidate,
            num_turns=1 if before is None else before.num_turns + 1,
            num_switches=switches,
            history_tokens=num_prompt_tokens(routed.request, candidate),
        )
        noted = _Noted(session=session, decision=routed.name, at_s=time.monotonic())
        for name in names.next:
            self._noted[name] = noted
            self._noted.move_to_end(name)
        while len(self._noted) > _MOST:
            self._noted.popitem(last=False)

    def noting_id(self, answer: Answer, routed: Routed, candidate: Candidate) -> Answer:
        """The same answer of the Responses API, whose id is noted once it has come."""

        async def chunks() -> AsyncGenerator[bytes, None]:
            head: bytes | None = b""
            async for chunk in answer.chunks:
                if head is not None:
                    head += chunk
                    if answer.is_stream and b"\n\n" in head.replace(b"\r", b""):
                        self._note_id(head, routed, candidate)
                        head = None
                    elif len(head) > _MOST_BYTES:
                        head = None
                yield chunk
            if head and not answer.is_stream:
                self._note_id(head, routed, candidate)

        return replace(answer, chunks=chunks())

    def _note_id(self, head: bytes, routed: Routed, candidate: Candidate) -> None:
        response_id = _id_of(head)
        if response_id:
            self.note(Names(next=(("response", response_id),)), routed, candidate)


def names_of(
    config: RouterConfig, routed: Routed, body: Mapping[str, Any], headers: Mapping[str, str]
) -> Names:
    """The names of a request's conversation.

    They are the response or the conversation that it continues; the header of
    `learning.protection.identity`, for whoever asks; and in a chat with tools, or where switches
    are priced, the messages before the last answer: they were the request that it answers.

    Args:
      body: of the client.
      headers: of the client, with lower-case names.
    """
    request, protection = routed.request, config.settings.router.learning.protection
    if request.previous_response_id:
        return Names(known=(("response", request.previous_response_id),))
    if request.conversation_id:
        name = ("conversation", request.conversation_id)
        return Names(known=(name,), next=(name,))
    shown, owner = protection.identity.headers, config.settings.services.authz.identity
    given = headers.get(shown.session.lower(), "")
    if protection.scope != "session":
        given = headers.get(shown.conversation.lower(), "") or given
    if given:
        whose = ("header", routed.recipe.name, headers.get(owner.user_id_header, ""), given)
        return Names(known=(whose,), next=(whose,))
    messages = body.get("messages")
    if isinstance(messages, list) and (request.num_tools or routed.policy.stickiness.is_priced):
        return _by_messages(messages, routed.recipe.name)
    return Names()


def _by_messages(messages: list[Any], recipe: str) -> Names:
    digest, before = hashlib.blake2b(recipe.encode(), digest_size=16), ""
    for message in messages:
        if message.get("role") == "assistant":
            before = digest.hexdigest()
        digest.update(json.dumps(message, sort_keys=True).encode())
    known = (("messages", before),) if before else ()
    return Names(known=known, next=(("messages", digest.hexdigest()),))


def _id_of(head: bytes) -> str:
    """The id of a response, by its JSON or the first event of its stream; "" if it has none."""
    text = head.decode("utf-8", "replace")
    lines = [line[5:] for line in text.splitlines() if line.startswith("data:")]
    try:
        found = json.loads(lines[0] if lines else text)
        return str(found.get("response", found).get("id") or "")
    except (ValueError, AttributeError):  # an answer of another form
        return ""
