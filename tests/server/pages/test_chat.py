"""The chat in a headless Chromium, before servers whose models are fakes: `make browser`."""

from __future__ import annotations

import pytest

from tests.server.pages.browser import Browser
from tests.server.pages.page import answered, open_page, page_of, say, set_field, texts
from tests.server.pages.served import TalkingEngine, talking_app

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=\"document.title='hurt'\"><script>alert(1)</script> & 'é'"
TOOLS = '[{"type": "function", "function": {"name": "weather"}}]'
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


def test_a_text_is_never_html(tab: Browser) -> None:
    engine = TalkingEngine(HOSTILE)
    with page_of(tab, talking_app(engine)):
        say(tab, HOSTILE)
        answered(tab)
        assert texts(tab, "article .text") == [HOSTILE, HOSTILE]
        assert tab.run("document.querySelectorAll('#log img, #log script').length") == 0
        assert engine.prompts == [f"[user]{HOSTILE}"]
        with pytest.raises(RuntimeError, match="TrustedHTML"):
            tab.run("document.body.innerHTML = '<b>x</b>'")
        tab.errors.clear()  # which is told as an error


def test_code_between_fences_is_a_block(tab: Browser) -> None:
    with page_of(tab, talking_app(TalkingEngine("So:\n```python\na = 1\n\nb = 2\n```\nDone."))):
        say(tab, "Hi")
        answered(tab)
        assert texts(tab, "article.assistant pre code") == ["a = 1\n\nb = 2"]
        assert texts(tab, "article.assistant .text span") == ["So:", "Done."]


def test_keys_send_begin_a_line_and_stop(tab: Browser) -> None:
    engine = TalkingEngine("abc" * 1000, step_s=0.01)
    with page_of(tab, talking_app(engine)):
        assert tab.run("document.activeElement.id") == "prompt"
        tab.type("one")
        tab.press("Enter", shift=True)
        say(tab, "two")
        tab.wait("document.querySelector('article.assistant .text').innerText.length > 3")
        assert tab.run("document.querySelector('#send').disabled")
        tab.press("Escape")
        answered(tab)
        tab.wait("!document.querySelector('#send').disabled")
        assert texts(tab, "article.assistant .notes p") == ["Stopped."]
        [kept] = texts(tab, "article.assistant .text")
        assert kept != "abc" * 1000
        assert ("abc" * 1000).startswith(kept)
        say(tab, "three")
        tab.wait("document.querySelectorAll('article.assistant .text')[1]?.innerText.length > 3")
        tab.run("document.querySelector('#stop').click()")
        answered(tab, 2)
        assert engine.prompts == ["[user]one\ntwo", f"[user]one\ntwo[assistant]{kept}[user]three"]
        assert engine.open == set()  # both were aborted


def test_the_last_turn_is_asked_again_or_changed(tab: Browser) -> None:
    engine = TalkingEngine("first", "second", "third")
    with page_of(tab, talking_app(engine)):
        say(tab, "Hi")
        answered(tab)
        tab.run("document.querySelector('#again').click()")
        tab.wait("document.querySelector('article.assistant .text').innerText === 'second'")
        tab.run("document.querySelector('#edit').click()")
        assert texts(tab, "article") == []
        assert tab.run("document.querySelector('#prompt').value") == "Hi"
        say(tab, "!")
        answered(tab)
        assert engine.prompts == ["[user]Hi", "[user]Hi", "[user]Hi!"]
        tab.run("document.querySelector('#clear').click()")
        assert texts(tab, "article") == []


def test_settings_are_fields_of_the_request(tab: Browser) -> None:
    engine = TalkingEngine("hello there")
    with page_of(tab, talking_app(engine)):
        values = {"temperature": "0.5", "top_p": "0.9", "max_tokens": "7", "seed": "3"}
        for name, value in (values | {"system": "Be kind.", "stops": "th\\nx\nzz"}).items():
            set_field(tab, name, value)
        set_field(tab, "format", "json_schema")
        assert tab.run("document.querySelector('#schema').checkVisibility()")
        say(tab, "Hi")
        answered(tab)
        assert engine.prompts == ["[system]Be kind.[user]Hi"]
        sampling = engine.requests[0].sampling
        assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 3)
        assert (sampling.max_tokens, sampling.stop) == (7, ("th\nx", "zz"))
        assert sampling.structured_outputs is not None
        assert "Cut off at the most tokens." in texts(tab, "article.assistant .notes p")
        set_field(tab, "temperature", "9")
        say(tab, "no")
        [told] = texts(tab, "article.failed .text")
        assert told.startswith("Temperature: ")
        set_field(tab, "temperature", "")
        set_field(tab, "tools", "{")
        tab.run("document.querySelector('#composer').requestSubmit()")
        [told] = texts(tab, "article.failed .text")
        assert told.startswith("Tools, a list in JSON: this is not JSON: ")
        assert len(engine.requests) == 1


def test_calls_of_tools_are_shown_and_answered(tab: Browser) -> None:
    engine = TalkingEngine(CALL, "It is sunny.")
    with page_of(tab, talking_app(engine)):
        set_field(tab, "tools", TOOLS)
        say(tab, "Weather?")
        answered(tab)
        assert texts(tab, ".calls pre") == ['weather({\n  "city": "Rome"\n})']
        assert tab.run("document.activeElement.closest('label').innerText") == "Result of weather"
        tab.type("25 degrees")
        tab.run("document.querySelector('.calls').requestSubmit()")
        answered(tab, 2)
        assert texts(tab, "article .text")[-2:] == ["25 degrees", "It is sunny."]
        asked = "<weather>[user]Weather?"
        assert engine.prompts == [asked, f"{asked}[assistant](weather)[tool]25 degrees"]


def test_the_conversation_outlives_a_reload(tab: Browser) -> None:
    engine = TalkingEngine(CALL, "It is sunny.", "Bye.")
    with page_of(tab, talking_app(engine)):
        url = tab.run("location.href")
        set_field(tab, "tools", TOOLS)
        say(tab, "Weather?")
        answered(tab)
        open_page(tab, url)
        tab.run("document.querySelector('.calls textarea').value = '25 degrees'")
        tab.run("document.querySelector('.calls').requestSubmit()")
        answered(tab, 2)
        open_page(tab, url)
        shown = ["Weather?", "", "25 degrees", "It is sunny."]
        assert texts(tab, "article .text") == shown
        assert tab.run("document.querySelector('.calls button').disabled")
        say(tab, "Thanks")
        answered(tab, 3)
        assert engine.prompts[-1].endswith("[tool]25 degrees[assistant]It is sunny.[user]Thanks")
        tab.run("document.querySelector('#clear').click()")
        open_page(tab, url)
        assert texts(tab, "article") == []


def test_reasoning_is_folded(tab: Browser) -> None:
    app = talking_app(TalkingEngine("Hm.</think>Hello."), reasoning_parser="deepseek_r1")
    with page_of(tab, app):
        say(tab, "Hi")
        answered(tab)
        assert texts(tab, "article.assistant .text") == ["Hello."]
        assert not tab.run("document.querySelector('details.reasoning').open")
        assert tab.run("document.querySelector('details.reasoning pre').textContent") == "Hm."


def test_a_base_model_continues_a_text(tab: Browser) -> None:
    engine = TalkingEngine(" a time", ", far away")
    with page_of(tab, talking_app(engine, template=None)):
        say(tab, "Once upon")
        answered(tab)
        say(tab, " there")
        answered(tab, 2)
        assert engine.prompts == ["Once upon", "Once upon a time there"]


def test_an_error_is_shown_and_the_question_can_be_asked_again(tab: Browser) -> None:
    engine = TalkingEngine("hello", raises=RuntimeError("secret"))
    with page_of(tab, talking_app(engine)):
        say(tab, "Hi")
        tab.wait("document.querySelector('article.failed')")
        assert "not the request's fault" in texts(tab, "article.failed .text")[0]
        tab.wait("!document.querySelector('#again').disabled")
