"""Keys of the response cache: equal for one answer, and for nothing else."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from flaxen.router.plugins.cache_key import CacheKey, Source, key_of
from flaxen.router.plugins.cache_settings import (
    CacheControls,
    CacheRevision,
    Controls,
    ResponseCache,
    SemanticCache,
    controls_of,
)
from flaxen.router.plugins.header_mutation import Header, HeaderMutation
from flaxen.router.plugins.reply import PluginError
from flaxen.router.requests.readers import READERS
from flaxen.router.signals.settings import Identity
from tests.router.plugins.test_preparing import BODIES, mutations

SOURCE = Source(recipe="r", decision="d", model="m", weights="w")
WHO = {"x-authz-user-id": "u", "x-authz-user-groups": "g, h", "x-authz-tenant-id": "t"}
CACHE = ResponseCache()
TEXT = {"type": "text", "text": "a"}
PARTS = [[TEXT], [TEXT | {"text": "b"}], [TEXT, TEXT], [{"type": "image", "source": {}}]]


def key(api: str, body: Any, **changes: Any) -> CacheKey:
    given: dict[str, Any] = {"settings": CACHE, "headers": WHO, "source": SOURCE} | changes
    found = key_of(given["settings"], api, body, given["headers"], given["source"])
    assert found is not None
    return found


@pytest.mark.parametrize("api", READERS)
def test_whatever_changes_in_a_request_changes_its_key(api: str) -> None:
    body = BODIES[api] | {"temperature": 0.5, "seed": 1}
    keys = [key(api, each).exact for each in (body, *mutations(body))]
    assert len(set(keys)) == len(keys)
    assert len(keys) > 20
    others = [key(other, body).exact for other in READERS if other != api]
    assert not set(keys) & set(others)
    assert key(api, dict(reversed(copy.deepcopy(body).items()))) == key(api, body)


@pytest.mark.parametrize("api", READERS)
def test_streamed_and_plain_are_one_entry(api: str) -> None:
    body = BODIES[api]
    for more in (
        {"stream": True},
        {"stream": False},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"stream_options": None},
    ):
        assert key(api, body | more) == key(api, body)
    other = {"stream_options": {"include_obfuscation": False}}
    assert key(api, body | other).exact != key(api, body).exact


def test_whatever_decides_an_answer_beside_the_request_changes_its_key() -> None:
    body = BODIES["chat"]
    changes: list[dict[str, Any]] = [{}]
    changes += [
        {"source": replace(SOURCE, **{name: "other"})}
        for name in ("recipe", "decision", "model", "weights")
    ]
    added = (Header(name="a", value="b"),)
    mutation = HeaderMutation(add=added)
    changes += [{"source": replace(SOURCE, headers=mutation)}]
    changes += [{"source": replace(SOURCE, headers=HeaderMutation(update=added))}]
    revisions = ("cache_epoch", "model_revision", "prompt_revision", "policy_revision")
    changes += [
        {"settings": ResponseCache(revision=CacheRevision(**{name: "1"}))} for name in revisions
    ]
    changes += [{"headers": WHO | {"anthropic-beta": "x"}}]
    assert len({key("chat", body, **each).exact for each in changes}) == len(changes)
    assert len({key("chat", body, **each).similar for each in changes}) == len(changes)
    assert key("chat", body, headers=WHO | {"x-request-id": "1"}) == key("chat", body)


def test_answers_never_reach_others() -> None:
    """Every two of these differ, and a tenant counts in every scope."""
    body, keys = BODIES["chat"], []
    for scope in ("user", "team", "tenant", "global"):
        settings = ResponseCache(scope=scope)  # type: ignore[arg-type]
        for tenant in ("t", "s"):
            keys.append(
                key("chat", body, settings=settings, headers=WHO | {"x-authz-tenant-id": tenant})
            )
    users = ({"x-authz-user-id": "v"}, {"x-authz-user-id": "g"})
    keys += [key("chat", body, headers=WHO | each) for each in users]
    team = ResponseCache(scope="team")
    for headers in ({"x-authz-user-groups": "h, g"}, {"x-authz-team-id": "u"}):
        keys.append(key("chat", body, settings=team, headers=WHO | headers))
    assert len({each.exact for each in keys}) == len({each.similar for each in keys}) == len(keys)
    for scope in ("user", "team", "tenant"):
        settings = ResponseCache(scope=scope)  # type: ignore[arg-type]
        assert key_of(settings, "chat", body, {}, SOURCE) is None
    assert key_of(ResponseCache(scope="global"), "chat", body, {}, SOURCE) is not None
    own = Identity(user_id_header="x-me")
    assert key_of(CACHE, "chat", body, {"x-me": "u"}, SOURCE, own) is not None
    assert key_of(CACHE, "chat", body, WHO, SOURCE, own) is None


def test_requests_without_a_key() -> None:
    for field in ({"background": True}, {"conversation": "c"}):
        assert key_of(CACHE, "responses", BODIES["responses"] | field, WHO, SOURCE) is None


def test_similar_requests_differ_in_the_last_text_alone() -> None:
    for api in READERS:
        body = BODIES[api]
        found = key(api, body)
        if api not in ("chat", "responses"):  # the last message is not a text alone, or none is
            assert (found.similar, found.text) == ("", "")
            continue
        name = "messages" if api == "chat" else "input"
        assert found.text == "again"
        other = body | {name: [*body[name][:-1], {"role": "user", "content": "once more"}]}
        assert key(api, other).similar == found.similar
        assert key(api, other).exact != found.exact
        assert key(api, body | {"temperature": 1}).similar != found.similar
        longer = body | {name: [*body[name], {"role": "user", "content": "again"}]}
        assert key(api, longer).similar != found.similar
        assert key(api, body, settings=ResponseCache(mode="exact")).similar == ""
    assert key("responses", {"input": "a"}).similar == key("responses", {"input": "b"}).similar
    found = [key("messages", {"messages": [{"role": "user", "content": c}]}) for c in PARTS]
    assert [each.text for each in found] == ["a", "b", "", ""]
    assert found[0].similar == found[1].similar != found[2].similar == found[3].similar == ""
    assert key("responses", {"input": "a" * 1_001}).similar == ""
    one, same, other = (
        key("responses", {"input": f"{a} and {b}"}) for a, b in ((1, 25), (1, 25), (1, 2))
    )
    assert one.similar == same.similar == key("responses", {"input": "is it 1, or 25?"}).similar
    assert other.similar not in (one.similar, key("responses", {"input": "2 and 1"}).similar)
    texts = ("is it 1.5?", "is it 1,5?", "is it 1 5?", "is it 15?", "is it -15?")
    assert len({key("responses", {"input": text}).similar for text in texts}) == len(texts)
    assert key("chat", {"messages": []}).similar == ""


def test_what_clients_ask_of_the_cache() -> None:
    every = ("no-cache", "no-store", "bypass", "max-age", "ttl")
    settings = CacheControls(enabled=True, allowed=every, max_ttl_seconds=60)
    for text, expected in (
        ("", Controls()),
        ("no-cache", Controls(reads=False)),
        ("no-store, ", Controls(writes=False)),
        ("Bypass", Controls(reads=False, writes=False)),
        ("max-age=5, ttl=30", Controls(ttl_s=30, max_age_s=5)),
        ("ttl=900", Controls(ttl_s=60)),
    ):
        assert controls_of(settings, {"x-vsr-cache-control": text}) == expected
    for text in ("other", "ttl", "ttl=x", "max-age=-1"):
        with pytest.raises(PluginError, match="x-vsr-cache-control may be no-cache"):
            controls_of(settings, {"x-vsr-cache-control": text})
    with pytest.raises(PluginError, match="got 'ttl=1'"):
        controls_of(CacheControls(enabled=True), {"x-vsr-cache-control": "ttl=1"})
    assert controls_of(CacheControls(), {"x-vsr-cache-control": "bypass"}) == Controls()


def test_thresholds_and_times() -> None:
    assert ResponseCache().threshold(0.8) == 0.8
    assert ResponseCache(similarity_threshold=0.0).threshold(0.8) == 0.0
    semantic = SemanticCache(similarity_threshold=0.9)
    assert ResponseCache(semantic=semantic).threshold(0.8) == 0.9
    assert ResponseCache().ttl_s(Controls(), 10) == 10
    assert ResponseCache(ttl_seconds=5).ttl_s(Controls(ttl_s=7), 10) == 5
    assert ResponseCache(ttl_seconds=5).ttl_s(Controls(ttl_s=0), 10) == 0
