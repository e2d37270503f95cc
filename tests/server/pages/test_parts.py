"""The page's other parts, and other servers' pages, in a headless Chromium: `make browser`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flaxen.model_pool.app import create_pool_app
from flaxen.protocol import PoolingInfo
from tests.job_routes.fine_tuning.serving import FakeTrainer, serving
from tests.model_pool.fake_models import Fakes
from tests.routing.fakes import make_proxy
from tests.server.fakes import FakeEngine
from tests.server.pages.browser import Browser
from tests.server.pages.page import answered, fits, page_of, say, set_field, texts
from tests.server.pages.served import TalkingEngine, served, talking_app

pytestmark = pytest.mark.slow


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


def test_the_status_has_numbers_and_a_chart(tab: Browser) -> None:
    with page_of(tab, talking_app(FakeEngine()), "#status"):
        tab.wait("document.querySelector('#speed svg')")
        shown = texts(tab, "#numbers > div")
        assert "Waiting\n2" in shown
        assert "KV cache in use\n25 %" in shown
        assert "Prompts from the cache\n25 %" in shown
        assert texts(tab, "#models td")[:3] == ["fake/model", "model", "loaded"]
        assert tab.run("document.querySelector('#speed title').textContent").startswith("Tokens")


def test_a_model_that_pools_begins_with_its_status(tab: Browser) -> None:
    engine = FakeEngine()
    engine.info = replace(engine.info, pooling=PoolingInfo(task="embed", pooling="mean"))
    with page_of(tab, talking_app(engine), "#chat"):
        assert texts(tab, "nav [aria-current]") == ["Status"]
        assert texts(tab, "header nav a:not([hidden])") == ["Status", "API", "Reference"]
        assert not tab.run("document.querySelector('#chat').checkVisibility()")


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
        # Whoever leaves before the list is there begins nothing that asks on.
        tab.run("location.hash = '#constructor'")
        tab.wait("document.querySelector('#chat').checkVisibility()")
        tab.run(
            """(async () => {
              const ask = fetch;
              window.asked = [];
              window.fetch = async (url) => {
                asked.push(url.pathname);
                const answer = await ask(url);
                await new Promise((done) => setTimeout(done, 50));
                return answer;
              };
              location.hash = "#jobs";
              await new Promise((done) => setTimeout(done, 20));
              location.hash = "#chat";
              await new Promise((done) => setTimeout(done, 300));
            })()"""
        )
        assert tab.run("asked") == ["/v1/fine_tuning/jobs"]
        # A job that has ended is not read again.
        tab.run("location.hash = '#jobs'")
        tab.wait("asked.length > 1 && document.querySelector('#job svg')")
        tab.run("new Promise((done) => setTimeout(done, 300))")
        assert tab.run("asked") == ["/v1/fine_tuning/jobs"] * 2


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
