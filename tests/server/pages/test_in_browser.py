"""The page in a headless Chromium, before servers whose models are fakes: `make browser`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxen.model_pool.app import create_pool_app
from tests.job_routes.fine_tuning.serving import FakeTrainer, serving
from tests.model_pool.fake_models import Fakes
from tests.routing.fakes import make_proxy
from tests.server.fakes import FakeEngine
from tests.server.pages.browser import Browser, browser, find_browser
from tests.server.pages.served import TalkingEngine, served, talking_app

PATH = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PATH is None, reason="no Chromium is here: `make browser` installs Debian's"
    ),
]
HOSTILE = "<img src=x onerror=\"document.title='hurt'\"><script>alert(1)</script> & 'é'"
TOOLS = '[{"type": "function", "function": {"name": "weather"}}]'
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PATH is not None
    with browser(PATH, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Browser]:
    """The tab, which must have no errors at the end."""
    chromium.resize(1280, 800)
    chromium.errors.clear()
    yield chromium
    assert chromium.errors == []


@contextlib.contextmanager
def page_of(tab: Browser, app: Any, part: str = "") -> Iterator[None]:
    """A server's page, and the server until the end."""
    with served(app) as url:
        open_page(tab, f"{url}{part}")
        yield
        tab.open("about:blank")  # a page asks on while its server ends


def open_page(tab: Browser, url: str) -> None:
    """Opens the page, and waits until it knows the models."""
    tab.open("about:blank")  # a change of the #name alone would load nothing
    tab.open(url)
    tab.wait("document.querySelector('#model').options.length")


def say(tab: Browser, text: str) -> None:
    tab.run("document.querySelector('#prompt').focus()")
    tab.type(text)
    tab.press("Enter")


def set_field(tab: Browser, name: str, value: str) -> None:
    field = f"document.querySelector('#{name}')"
    tab.run(f"{field}.value = {json.dumps(value)}")
    tab.run(f"{field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def texts(tab: Browser, of: str) -> Any:
    """What elements show."""
    return tab.run(f"[...document.querySelectorAll({json.dumps(of)})].map((e) => e.innerText)")


def answered(tab: Browser, count: int = 1) -> None:
    """Waits until so many answers are whole."""
    tab.wait(
        f"document.querySelectorAll('article.assistant').length === {count} && "
        "document.querySelector('#log').getAttribute('aria-busy') === 'false'"
    )


def fits(tab: Browser) -> bool:
    """Whether a narrow window shows the page without scrolling to the side."""
    tab.resize(320, 640, dark=True)
    return bool(tab.run("document.documentElement.scrollWidth <= 320"))


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


def test_reasoning_is_folded(tab: Browser) -> None:
    app = talking_app(TalkingEngine("Hm.</think>Hello."), reasoning_parser="deepseek_r1")
    with page_of(tab, app):
        say(tab, "Hi")
        answered(tab)
        assert texts(tab, "article.assistant .text") == ["Hello."]
        assert not tab.run("document.querySelector('details.reasoning').open")
        assert tab.run("document.querySelector('details.reasoning pre').textContent") == "Hm."


def test_a_key_is_asked_for_and_kept_in_the_tab(tab: Browser) -> None:
    engine = TalkingEngine("hello")
    with served(talking_app(engine, api_keys=("secret-key",))) as url:
        tab.open(url)
        tab.wait("document.activeElement.id === 'key'")
        say(tab, "Hi")
        assert "API key" in texts(tab, "article.failed .text")[0]
        tab.run("document.querySelector('#key').focus()")
        tab.type("secret-key")
        tab.press("Enter")
        tab.wait("document.querySelector('#model').options.length")
        tab.run("document.querySelector('#composer').requestSubmit()")
        answered(tab)
        assert tab.run("Object.keys(localStorage).length") == 0
        tab.run("location.hash = '#status'")
        tab.wait("document.querySelector('#numbers').innerText.includes('25 %')")
        tab.open("about:blank")


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


def test_the_status_has_numbers_and_a_chart(tab: Browser) -> None:
    with page_of(tab, talking_app(FakeEngine()), "#status"):
        tab.wait("document.querySelector('#speed svg')")
        shown = texts(tab, "#numbers > div")
        assert "Waiting\n2" in shown
        assert "KV cache in use\n25 %" in shown
        assert "Prompts from the cache\n25 %" in shown
        assert texts(tab, "#models td")[:3] == ["fake/model", "model", "loaded"]
        assert tab.run("document.querySelector('#speed title').textContent").startswith("Tokens")


def test_the_loss_of_a_job_is_a_line(tab: Browser, tmp_path: Path) -> None:
    with (
        serving(tmp_path, FakeTrainer()) as job_server,
        page_of(tab, job_server.app, "#jobs"),
    ):
        tab.wait("document.querySelector('#job-list').innerText === 'There are no jobs yet.'")
        tab.run(
            """(async () => {
              const form = new FormData();
              form.append("purpose", "fine-tune");
              form.append("file", new Blob(['{"text": "one"}\\n'.repeat(10)]), "a.jsonl");
              const file = await (await fetch("/v1/files", {method: "POST", body: form})).json();
              const body = JSON.stringify({model: "fake/model", training_file: file.id});
              const headers = {"content-type": "application/json"};
              await fetch("/v1/fine_tuning/jobs", {method: "POST", body, headers});
            })()"""
        )
        [job] = job_server.jobs.list()[0]
        job_server.wait_for(job["id"], "succeeded")
        tab.run("location.hash = '#chat'")
        tab.run("location.hash = '#jobs'")
        tab.wait("document.querySelector('#job svg title')")
        assert tab.run("document.querySelector('#job svg title').textContent") == (
            "Loss by step. training loss: from 1 to 0.333."
        )
        points = tab.run("document.querySelector('#job polyline').getAttribute('points')")
        assert len(points.split()) == 3
        assert "step 3 of 3, loss 0.333" in texts(tab, "#job p")[0]
        assert texts(tab, "#job td:first-child") == ["3", "2"]
        assert fits(tab)


def test_decisions_of_a_router_are_shown(tab: Browser) -> None:
    proxy = make_proxy()
    chunk = {"choices": [{"index": 0, "delta": {"content": "42"}, "finish_reason": "stop"}]}
    stream = [f"data: {json.dumps(chunk)}\r\n\r".encode(), b"\ndata: [DONE]\r\n\r\n"]
    proxy.upstreams["large"].answers = [stream]
    with page_of(tab, proxy.app):
        assert tab.run("document.querySelector('#model').value") == "helper"
        say(tab, "the sum of 40 and 2")
        answered(tab)
        assert texts(tab, "article.assistant .text") == ["42"]
        assert texts(tab, "details.decision summary") == ["Routed: math → large"]
        tab.wait("!document.querySelector('nav a[href=\"#router\"]').hidden")
        tab.run("location.hash = '#router'")
        tab.wait("document.querySelector('#decided td')")
        assert texts(tab, "#decided td")[1:4] == ["helper", "math", "large"]
        assert "math\t1" in "\n".join(texts(tab, "#counted tr"))
        tab.run("document.querySelector('#preview-text').focus()")
        tab.type("an integral")
        tab.press("Enter")
        tab.wait("document.querySelector('.tree .is-true')")
        assert texts(tab, ".tree > li > strong") == ["math"]
        assert len(proxy.upstreams["large"].calls) == 1
        assert fits(tab)


def test_several_models_are_chosen_by_name(tab: Browser) -> None:
    fakes = Fakes(chats=True)
    pool = fakes.pool(fakes.model("a"), fakes.model("b"))
    app = create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)
    with page_of(tab, app):
        assert texts(tab, "#model option") == ["a", "b"]
        set_field(tab, "model", "b")
        set_field(tab, "max_tokens", "5")
        say(tab, "Hi")
        answered(tab)
        assert fakes.log == ["+b"]
        tab.run("location.hash = '#status'")
        tab.wait("document.querySelector('#numbers').innerText.includes('Memory of models')")
        assert texts(tab, "#models td:nth-child(3)") == ["unloaded", "loaded"]


@pytest.mark.parametrize("part", ["chat", "status", "jobs", "api"])
def test_a_narrow_page_is_not_wider_than_its_window(tab: Browser, part: str) -> None:
    with page_of(tab, talking_app(TalkingEngine("word " * 200 + "x" * 400)), f"#{part}"):
        assert tab.run(f"document.querySelector('#{part}').checkVisibility()")
        if part == "chat":
            say(tab, "y" * 300)
            answered(tab)
        assert fits(tab)
