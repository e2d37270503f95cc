"""Authorization: the roles of the user who asks, as headers that are trusted name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.router.request import RoutedRequest
from flaxen.router.signals.checks import NamedRule, check_name
from flaxen.router.signals.found import Found, unknown
from flaxen.router.signals.settings import Finder, Identity, SignalSettings


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A user by their id, or a group by its name.

    Raises:
      ValueError: kind is neither User nor Group, or the name is blank.
    """

    kind: str
    name: str

    def __post_init__(self) -> None:
        if self.kind.strip().lower() not in ("user", "group"):
            raise ValueError(f"kind {self.kind!r} of a subject must be User or Group")
        if not self.name.strip():
            raise ValueError("a subject needs the name that the identity header gives it")


@dataclass(frozen=True, kw_only=True)
class RoleBinding(NamedRule):
    """Gives a role to subjects. Conditions name the role; several bindings may give the same.

    Raises:
      ValueError: the role has no name, or nobody has it.
    """

    role: str
    subjects: tuple[Subject, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.role, "role")
        if not self.subjects:
            raise ValueError(f"nobody has the role {self.role!r}: give it subjects")


def find_roles(rules: Sequence[RoleBinding], settings: SignalSettings) -> Finder:
    """The finder of a list of bindings: who asks is read once.

    Without a user the roles are unknown; the server refuses such a request (missing_identity).
    """
    identity = settings.identity
    users = [_names(rule, "user") for rule in rules]
    groups = [_names(rule, "group") for rule in rules]

    def find(request: RoutedRequest) -> list[Found]:
        if problem := missing_identity(request, identity):
            return [unknown(problem)] * len(rules)
        user = request.headers.get(identity.user_id_header.lower(), "").strip()
        listed = request.headers.get(identity.user_groups_header.lower(), "").split(",")
        member_of = {group.strip() for group in listed if user and group.strip()}
        reason = f"user {user!r}" if user else "no user, and fail_open is set"
        return [
            Found(matched=user in users[i] or bool(member_of & groups[i]), reason=reason)
            for i in range(len(rules))
        ]

    return find


def missing_identity(request: RoutedRequest, identity: Identity) -> str:
    """Why the roles of a request can't be known, for the client; "" if they can."""
    if identity.fail_open or request.headers.get(identity.user_id_header.lower(), "").strip():
        return ""
    return (
        f"the header {identity.user_id_header} says nobody, so the roles of this request are "
        "unknown: what authenticates users before this server must set it"
    )


def _names(rule: RoleBinding, kind: str) -> frozenset[str]:
    subjects = rule.subjects
    return frozenset(s.name.strip() for s in subjects if s.kind.strip().lower() == kind)
