"""What becomes of requests in which signals found harm: blocked, rerouted or masked."""

from __future__ import annotations

import json

import pytest

from flaxen.router.plugins.fast_response import FastResponse
from flaxen.router.plugins.guards import Jailbreak, Pii
from flaxen.router.plugins.preparing import Prepared, signals_of
from flaxen.router.plugins.tools import Tools
from flaxen.router.requests.readers import READERS
from flaxen.router.signals.found import Entity, Found
from tests.router.plugins.test_preparing import BODIES, EMAIL, prepared, seen


@pytest.mark.parametrize("api", READERS)
def test_personal_data_is_masked_wherever_it_stands(api: str) -> None:
    result = prepared(api, Pii(rule="p", action="mask"), asked=seen(pii=EMAIL))
    text = json.dumps(BODIES[api]).replace("x@y.z", "[EMAIL_ADDRESS]")
    assert result.body == json.loads(text)
    assert result.notes == ("pii: masked",)


def test_what_a_tool_was_given_is_masked_whatever_its_form() -> None:
    found = Found(matched=True, entities=(Entity("PERSON", 'Zoë "Z"\nK'),))
    text = 'Zoë "Z"\nK'
    given = {"name": text, "data": [{"url": text}]}
    calls = [
        {"function": {"name": "f", "arguments": json.dumps(given, ensure_ascii=each)}}
        for each in (True, False)
    ]
    block = {"type": "tool_use", "name": "f", "input": given}
    for api, message in (("chat", {"tool_calls": calls}), ("messages", {"content": [block]})):
        body = {"messages": [{"role": "assistant", **message}]}
        masked = prepared(api, Pii(rule="p", action="mask"), body=body, asked=seen(pii=found)).body
        assert json.dumps(masked).count("[PERSON]") == (4 if api == "chat" else 2)
        assert not any(part in json.dumps(masked) for part in ("Zo", "K"))


def test_what_can_not_be_masked_is_blocked() -> None:
    there, not_there = Entity("EMAIL_ADDRESS", "x@y.z"), Entity("PERSON", "nobody")
    for entities in ((), (not_there,), (there, not_there), (Entity("PERSON", ""),)):
        found = Found(matched=True, entities=entities)
        reply = prepared("chat", Pii(rule="p", action="mask"), asked=seen(pii=found)).reply
        assert reply is not None
        assert reply.status == 403
    inner = Found(matched=True, entities=(there, Entity("DOMAIN", "y.z")))
    names = Found(matched=True, entities=(Entity("FIRST", "Ann"), Entity("PERSON", "Ann Lee")))
    mask = Pii(rule="p", action="mask")
    body = prepared("embeddings", mask, body={"input": "Ann Lee, Ann"}, asked=seen(pii=names)).body
    assert body["input"] == "[PERSON], [FIRST]"
    body = prepared("embeddings", Pii(rule="p", action="mask"), asked=seen(pii=inner)).body
    assert body["input"] == "[EMAIL_ADDRESS]"


def test_guards() -> None:
    yes, no = Found(matched=True), Found(matched=False)
    failed = Found(matched=None, reason="too slow")
    block, reroute = Jailbreak(rule="p"), Jailbreak(rule="p", action="reroute", model="safe")
    assert signals_of([block, Tools(), Pii(rule="q")]) == (("jailbreak", "p"), ("pii", "q"))
    assert prepared("chat", block, asked=seen(jailbreak=no)) == Prepared(body=BODIES["chat"])
    assert prepared("chat", reroute, asked=seen(jailbreak=yes)).model == "safe"
    assert prepared("chat", reroute, asked=seen(jailbreak=no)).model == ""
    fast = FastResponse(message="hi")
    for api in READERS:
        blocked = prepared(api, fast, block, asked=seen(jailbreak=yes)).reply
        assert blocked is not None
        assert blocked.status == 403
        error = json.loads(blocked.body)["error"]
        assert error["type"] == "permission_error"
        assert ("code" in error) == (api != "messages")
    for asked, why in ((seen(jailbreak=failed), b"too slow"), (seen(), b"was not computed")):
        reply = prepared("chat", block, asked=asked).reply
        assert reply is not None
        assert reply.status == 503
        assert why in reply.body
    lenient = Jailbreak(rule="p", on_unknown="no_match")
    passed = prepared("chat", lenient, asked=seen(jailbreak=failed))
    assert (passed.reply, passed.notes) == (None, ("jailbreak: unknown, and passed",))
    strict = prepared(
        "chat", Jailbreak(rule="p", on_unknown="match"), asked=seen(jailbreak=failed)
    ).reply
    assert strict is not None
    assert strict.status == 403
    with pytest.raises(ValueError, match="belongs to action reroute"):
        Pii(rule="p", action="reroute")
    with pytest.raises(ValueError, match="names no data to mask"):
        Pii(rule="p", action="mask", on_unknown="match")
