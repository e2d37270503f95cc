"""Metadata, which anybody can send, and roles, which only trusted headers give."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.router.signals.settings import Identity, SignalSettings
from tests.router.signals.rules import finder, found, with_messages


@pytest.mark.parametrize(
    ("predicate", "metadata", "expected"),
    [
        ({"equals": "gold"}, {"tier": "gold"}, True),
        ({"equals": "gold"}, {"tier": "Gold"}, False),
        ({"equals": ""}, {}, False),
        ({"in": ["a", "b"]}, {"tier": "b"}, True),
        ({"in": ["a", "b"]}, {"tier": "c"}, False),
        ({"exists": True}, {"tier": ""}, True),
        ({"exists": False}, {"other": "x"}, True),
        ({"exists": False}, {"tier": "x"}, False),
    ],
)
def test_metadata(predicate: dict[str, Any], metadata: dict[str, str], expected: bool) -> None:
    request = with_messages([], metadata=metadata, headers={"tier": "gold"})
    assert found("metadata", {"key": "tier", "predicate": predicate}, request).matched is expected


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"predicate": {}}, "has one of equals, in and exists, got 0"),
        ({"predicate": {"equals": "a", "exists": True}}, "got 2"),
        ({"predicate": {"exists": True}, "key": ""}, "key '' must have characters"),
    ],
)
def test_metadata_without_one_question_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        finder("metadata", {"key": "tier", **rule})


BINDINGS = [
    {"role": "admin", "subjects": [{"kind": "User", "name": "ann"}]},
    {
        "role": "staff",
        "subjects": [{"kind": "group", "name": " eng "}, {"kind": "User", "name": "b"}],
    },
]


def roles(headers: dict[str, str], identity: Identity | None = None) -> list[bool | None]:
    settings = SignalSettings(identity=identity or Identity())
    request = with_messages([], headers=headers, metadata={"x-authz-user-id": "ann"}, user="ann")
    return [
        result.matched for result in finder("role_bindings", *BINDINGS, settings=settings)(request)
    ]


def test_roles_are_of_users_and_groups() -> None:
    assert roles({"x-authz-user-id": "ann"}) == [True, False]
    assert roles({"x-authz-user-id": "cat", "x-authz-user-groups": "ops, eng"}) == [False, True]
    assert roles({"x-authz-user-id": "eng"}) == [False, False]
    assert roles({"x-authz-user-id": "cat", "x-authz-user-groups": "ann"}) == [False, False]


def test_only_the_configured_headers_are_trusted() -> None:
    identity = Identity(user_id_header="X-User", user_groups_header="X-Groups")
    assert roles({"x-user": "b"}, identity) == [False, True]
    forged = {"x-user": "cat", "x-authz-user-id": "ann", "x-authz-user-groups": "eng"}
    assert roles(forged, identity) == [False, False]


@pytest.mark.parametrize("headers", [{}, {"x-authz-user-id": " "}, {"x-authz-user-groups": "eng"}])
def test_without_a_user_roles_are_unknown_or_none(headers: dict[str, str]) -> None:
    assert roles(headers) == [None, None]
    assert roles(headers, Identity(fail_open=True)) == [False, False]
    [unknown, _] = finder("role_bindings", *BINDINGS)(with_messages([], headers=headers))
    assert "x-authz-user-id says nobody, so the roles of this request are unknown" in unknown.reason


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"subjects": []}, "nobody has the role 'r'"),
        ({"role": ""}, "role '' must have characters"),
        (
            {"subjects": [{"kind": "Team", "name": "a"}]},
            "'Team' of a subject must be User or Group",
        ),
        ({"subjects": [{"kind": "User", "name": " "}]}, "a subject needs the name"),
    ],
)
def test_a_role_for_nobody_is_refused(rule: dict[str, Any], message: str) -> None:
    subjects = [{"kind": "User", "name": "a"}]
    with pytest.raises(ValueError, match=message):
        finder("role_bindings", {"role": "r", "subjects": subjects, **rule})
