"""The plugins jailbreak and pii: what happens to a request in which a signal found something.

They are ours: in the public reference a decision with such a condition blocks or reroutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from flaxen.router.checks import check_named
from flaxen.router.plugins.masking import masked
from flaxen.router.plugins.reply import Json, Reply, error_reply
from flaxen.router.signals.found import Found


@dataclass(frozen=True, kw_only=True)
class _Guard:
    """What a guard does where the signal `rule` of its kind matches.

    Attributes:
      message: what the client of a blocked request is told.
      model: what answers a rerouted one.
      on_unknown: whether a request whose signal failed is refused (fail_request), is treated as if
        it had matched, or passes.
    """

    kind: ClassVar[str]
    rule: str
    message: str = "the request was blocked by a policy of this server"
    model: str = ""
    on_unknown: Literal["fail_request", "match", "no_match"] = "fail_request"

    def _check(self, action: str) -> None:
        check_named("rule", self.rule)
        check_named("message", self.message)
        if (action == "reroute") != bool(self.model):
            raise ValueError("model is what a request is rerouted to: it belongs to action reroute")

    @property
    def signal(self) -> tuple[str, str]:
        """The type and name of the condition that it acts on."""
        return self.kind, self.rule


@dataclass(frozen=True, kw_only=True)
class Jailbreak(_Guard):
    """Blocks or reroutes a request that attacks the model's rules."""

    kind: ClassVar[str] = "jailbreak"
    action: Literal["block", "reroute"] = "block"

    def __post_init__(self) -> None:
        self._check(self.action)


@dataclass(frozen=True, kw_only=True)
class Pii(_Guard):
    """Blocks or reroutes a request with personal data, or masks the data."""

    kind: ClassVar[str] = "pii"
    action: Literal["block", "mask", "reroute"] = "block"

    def __post_init__(self) -> None:
        self._check(self.action)
        if self.action == "mask" and self.on_unknown == "match":
            raise ValueError(
                "a signal that failed names no data to mask: on_unknown must be fail_request or "
                "no_match"
            )


@dataclass(frozen=True, kw_only=True)
class Action:
    """What becomes of a request: its body, an answer at once, or another model; and why."""

    body: Json
    reply: Reply | None = None
    model: str = ""
    note: str = ""


def guarded(body: Json, api: str, guard: Jailbreak | Pii, found: Found | None) -> Action:
    """What a guard does to a request.

    Args:
      found: what its signal found; None, as unknown, if nobody computed it.
    """
    matched = None if found is None else found.matched
    if matched is None and guard.on_unknown == "fail_request":
        why = found.reason if found is not None else "it was not computed"
        text = f"{guard.kind}:{guard.rule} is unknown ({why}), and nothing passes without it"
        return Action(body=body, reply=error_reply(api, 503, text, "signal_unknown"), note=text)
    if matched is False or (matched is None and guard.on_unknown == "no_match"):
        return Action(body=body, note="" if matched is False else "unknown, and passed")
    if guard.action == "reroute":
        return Action(body=body, model=guard.model, note=f"rerouted to {guard.model}")
    if guard.action == "mask":
        assert found is not None, "a mask is not for what is unknown"
        changed, missing = masked(body, found.entities)
        if found.entities and not missing:
            return Action(body=changed, note="masked")
    reply = error_reply(api, 403, guard.message, f"{guard.kind}_blocked")
    return Action(body=body, reply=reply, note="blocked")
