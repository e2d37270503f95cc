"""The store of answers: what comes out is what was kept, within its bounds; one request flies."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flaxen.router.plugins.answers.streams import answer_reply, wants_usage, whole_answer
from flaxen.router.plugins.cache import AnswerCache, Flight, Hit, Wait
from flaxen.router.plugins.cache_key import CacheKey
from flaxen.router.plugins.reply import to_json
from tests.router.plugins.test_answers import CASES


def key(name: str, similar: str = "") -> CacheKey:
    return CacheKey(name, similar, name)


def keep(cache: AnswerCache, of: CacheKey, answer: Any, now: float = 0, **more: Any) -> None:
    flight = cache.fly(of, now, now)
    assert isinstance(flight, Flight)
    cache.keep(flight, answer, now, **({"ttl_s": 10.0} | more))


@pytest.mark.parametrize(("api", "answer"), CASES)
@pytest.mark.parametrize("kept_as_stream", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_hit_is_the_kept_answer_however_it_came_and_goes(
    api: str, answer: dict[str, Any], kept_as_stream: bool, stream: bool
) -> None:
    usage = {"stream_options": {"include_usage": True}}
    came = answer_reply(api, answer, {"stream": kept_as_stream} | usage).body
    whole = whole_answer(api, came, is_stream=kept_as_stream)
    assert whole is not None
    cache = AnswerCache()
    keep(cache, key("a"), whole)
    hit = cache.find(key("a"), 3)
    assert hit == Hit(answer, 1.0, 3)
    assert hit is not None
    reply = answer_reply(api, hit.answer, {"stream": stream} | usage)
    assert whole_answer(api, reply.body, is_stream=stream) == answer


def test_an_answer_without_usage_is_not_for_clients_who_are_told() -> None:
    cache, body = AnswerCache(), {"stream": True}
    keep(cache, key("a"), {"usage": None})
    assert cache.find(key("a"), 0) is None
    assert cache.find(key("a"), 0, wants_usage=wants_usage("chat", body)) is not None
    before = cache.num_bytes
    keep(cache, key("a"), {"usage": {}})  # takes its place
    assert (len(cache), cache.num_bytes) == (1, before - 2)
    assert cache.find(key("a"), 0) is not None
    assert wants_usage("messages", body)
    assert wants_usage("chat", {})
    assert wants_usage("chat", body | {"stream_options": {"include_usage": True}})


@pytest.mark.parametrize("eviction", ["fifo", "lru"])
def test_it_is_a_dictionary_with_bounds(eviction: Any) -> None:
    """Against a plain list of what was kept, in the order in which it goes."""
    draw = random.Random(0)
    cache = AnswerCache(max_bytes=6_000, max_entries=4, eviction=eviction)
    kept: list[tuple[str, dict[str, Any], float]] = []  # name, answer, until
    hits = 0
    for now in range(3_000):
        name = draw.choice("abcdefg")
        there = [each for each in kept if each[0] == name]
        expected = there[0][1] if there and there[0][2] > now else None
        hit = cache.find(key(name), now)
        assert (hit and hit.answer) == expected
        if expected is None:
            answer = {"usage": {}, "text": "x" * draw.randrange(3_000), "now": now}
            ttl = draw.randrange(12)
            keep(cache, key(name), answer, now, ttl_s=ttl)
            kept = [each for each in kept if each[0] != name]
            if ttl:
                kept.append((name, answer, now + ttl))
            while len(kept) > 4 or sum(len(to_json(each[1])) + 1_024 for each in kept) > 6_000:
                kept.pop(0)
        else:
            hits += 1
            if eviction == "lru":
                kept = [each for each in kept if each[0] != name] + there
        assert len(cache) <= 4
        assert cache.num_bytes <= 6_000
    assert hits > 300
    for name in "abcdefg":
        cache.find(key(name), 1e9)
    assert (len(cache), cache.num_bytes) == (0, 0)


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = AnswerCache(max_bytes=2_000)
    keep(cache, key("a"), {"usage": {}})
    keep(cache, key("b"), {"usage": {}, "text": "x" * 2_000})
    assert cache.find(key("a"), 0) is not None
    assert cache.find(key("b"), 0) is None


def test_the_most_similar_answer_above_the_threshold() -> None:
    cache = AnswerCache()
    vectors = {"a": (1.0, 0.0), "b": (0.8, 0.6), "c": None}
    for name, vector in vectors.items():
        keep(cache, key(name, "s"), {"usage": {}, "is": name}, vector=vector)
    keep(cache, key("other", "t"), {"usage": {}, "is": "other"}, vector=(0.6, 0.8))

    def find(name: str, similar: str = "s", threshold: float = 0.9, **more: Any) -> Any:
        hit = cache.find(key(name, similar), 0, threshold=threshold, **more)
        return hit and (hit.answer["is"], round(hit.similarity, 3))

    assert find("x") is None
    assert find("x", vector=(0.6, 0.8)) == ("b", 0.96)
    assert find("x", vector=(0.6, 0.8), threshold=0.97) is None
    assert find("a", vector=(0.6, 0.8)) == ("a", 1.0)  # the same request comes first
    assert find("x", "", vector=(0.6, 0.8)) is None
    assert find("x", "u", vector=(0.6, 0.8)) is None


def test_an_age_that_a_client_allows() -> None:
    cache = AnswerCache()
    keep(cache, key("a"), {"usage": {}})
    assert cache.find(key("a"), 5, max_age_s=5) is not None
    assert cache.find(key("a"), 5, max_age_s=4) is None
    assert cache.find(key("a"), 9.9) is not None
    assert cache.find(key("a"), 10) is None


def test_one_request_flies_and_others_wait_for_it() -> None:
    cache, woken = AnswerCache(), []
    leader = cache.fly(key("a"), 0, 0)
    assert isinstance(leader, Flight)
    for name in "bc":
        wait = cache.fly(key("a"), 1, 1)
        assert isinstance(wait, Wait)
        assert (wait.flight, wait.until) == (leader, 30)
        wait.flight.on_end.append(lambda name=name: woken.append(name))
    assert isinstance(cache.fly(key("other"), 1, 1), Flight)
    cache.keep(leader, {"usage": {}}, 2, 10)
    assert woken == ["b", "c"]
    assert cache.find(key("a"), 2) is not None
    assert isinstance(cache.fly(key("a"), 2, 2), Flight)  # the flight has ended
    cache.end(leader)  # and ends once
    assert woken == ["b", "c"]


def test_one_of_those_who_wait_flies_after_a_failure() -> None:
    cache = AnswerCache()
    leader = cache.fly(key("a"), 0, 0)
    assert isinstance(leader, Flight)
    assert isinstance(cache.fly(key("a"), 1, 1), Wait)
    cache.end(leader)
    second = cache.fly(key("a"), 1, 1)
    assert isinstance(second, Flight)
    assert isinstance(cache.fly(key("a"), 1, 1), Wait)
    cache.end(leader)  # it was replaced, and ends nothing of the second's
    assert isinstance(cache.fly(key("a"), 1, 1), Wait)


def test_nobody_waits_for_longer_than_allowed() -> None:
    cache = AnswerCache(wait_s=5)
    leader = cache.fly(key("a"), 0, 0)
    assert isinstance(leader, Flight)
    wait = cache.fly(key("a"), 7, 3)
    assert isinstance(wait, Wait)
    assert wait.until == 8
    alone = cache.fly(key("a"), 8, 3)
    assert isinstance(alone, Flight)
    assert isinstance(cache.fly(key("a"), 8, 8), Wait)  # for the first one, still
    cache.keep(alone, {"usage": {}, "is": "alone"}, 9, 10)
    assert isinstance(cache.fly(key("a"), 10, 10), Wait)
    late = cache.fly(key("a"), 30, 30)  # the first one's time is over
    assert isinstance(late, Flight)
    cache.keep(leader, {"usage": {}, "is": "leader"}, 31, 10)
    assert isinstance(cache.fly(key("a"), 31, 31), Wait)  # for the late one
