"""GET / and GET /docs: self-contained, the same for everybody, and without a secret."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flaxen.protocol import PoolingInfo
from flaxen.server.app import ALIASES, INVOCATIONS, ROUTES, create_app
from flaxen.server.config import ServerConfig
from flaxen.server.generation.bodies import (
    ChatBody,
    CommonBody,
    CompletionBody,
    DetokenizeBody,
    StreamOptions,
    TokenizeBody,
)
from flaxen.server.pages import snippets
from flaxen.server.pages.reference import make_reference
from tests.routing.fakes import make_proxy
from tests.server.clients import get, http_client, make_app, run
from tests.server.fakes import FakeEngine, byte_tokenizer

ELSEWHERE = ("/embeddings", "/responses")  # aliases of routes of other rooms
ALL = [route for route in (*ROUTES, *ALIASES, INVOCATIONS) if route[1] not in ELSEWHERE]
DOCS = Path(__file__).parents[3] / "docs" / "server.md"


def code(page: str) -> list[str]:
    """The blocks of code on a page."""
    found = re.findall(r"<pre><code>(.*?)</code></pre>", page, re.S)
    return [html.unescape(each) for each in found]


def hidden_parts(page: str) -> set[str]:
    """The parts of a page whose links are not shown."""
    return set(re.findall(r'<a href="#(\w+)" hidden>', page))


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("keys", [(), ("secret-key",)])
def test_a_page_is_whole_without_a_key_or_another_site(path: str, keys: tuple[str, ...]) -> None:
    answer = get(make_app(api_keys=keys), path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    rules = answer.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(rules)
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "secret-key" not in answer.text
    assert ("fake/model" in answer.text) is (path == "/" and not keys)
    for address in re.findall(r'(?:src|href)="([^"]*)"', answer.text):
        assert address.startswith(("/", "#", "data:")), address
    assert not re.search(r"<style|@import|url\(| style=| on\w+=", answer.text)
    assert set(re.findall(r"<script[^>]*>(.*?)</script>", answer.text, re.S)) <= {""}


def test_the_snippets_are_of_this_address_and_model() -> None:
    async def ask() -> Any:
        async with http_client(make_app(), host="my.host:81") as client:
            return await client.get("/")

    curl, python = code(run(ask()).text)
    assert curl.startswith("curl http://my.host:81/v1/chat/completions")
    assert '"model": "fake/model"' in curl
    assert 'base_url="http://my.host:81/v1"' in python
    compile(python, "snippet", "exec")


def test_a_host_that_is_none_is_not_shown() -> None:
    async def ask() -> Any:
        async with http_client(make_app(), host="x</code><b>;rm") as client:
            return await client.get("/")

    text = run(ask()).text
    assert ";rm" not in text
    assert "http://HOST:PORT/v1" in text


def test_a_model_without_a_chat_template_is_completed() -> None:
    app = create_app(FakeEngine(), byte_tokenizer(None), ServerConfig())
    curl, python = code(get(app, "/").text)
    assert "/v1/completions" in curl
    assert "client.completions.create" in python


@pytest.mark.parametrize(
    ("task", "labels", "path", "method"),
    [
        ("embed", (), "/v1/embeddings", "client.embeddings.create"),
        ("classify", ("good", "bad"), "/classify", None),
        ("classify", ("relevant",), "/score", None),
    ],
)
def test_a_model_that_pools_has_no_chat(
    task: Any, labels: tuple[str, ...], path: str, method: str | None
) -> None:
    engine = FakeEngine()
    pooling = PoolingInfo(task=task, pooling="mean", labels=labels)
    engine.info = replace(engine.info, pooling=pooling)
    page = get(create_app(engine, byte_tokenizer(), ServerConfig()), "/").text
    curl, *python = code(page)
    assert curl.startswith(f"curl http://flaxen{path} ")
    assert [method in each for each in python] == ([True] if method else [])
    assert hidden_parts(page) == {"chat", "jobs", "router"}
    assert hidden_parts(get(make_app(), "/").text) == {"router"}


def test_a_router_without_models_trains_none() -> None:
    assert hidden_parts(get(make_proxy().app, "/").text) == {"jobs", "router"}


@pytest.mark.parametrize("chats", [True, False])
def test_snippets_survive_any_name(chats: bool) -> None:
    name = """it's "$HOME" `x` <b>"""
    target = snippets.Target(url="http://h:1", model=name, chats=chats, has_key=True)
    script = snippets.curl(target).replace("curl ", "printf '%s\\n' ", 1)
    shown = subprocess.check_output(["sh", "-c", script], text=True, env={"FLAXEN_API_KEY": "k"})
    assert "Authorization: Bearer k\n" in shown
    assert """it's \\"$HOME\\" `x` <b>""" in shown
    compile(snippets.python(target), "snippet", "exec")
    assert get(make_app(served_model_names=(name,)), "/").text.count("<b>") == 0


def fields() -> Iterator[str]:
    for body in (
        ChatBody,
        CommonBody,
        CompletionBody,
        DetokenizeBody,
        StreamOptions,
        TokenizeBody,
    ):
        yield from body.model_fields


def test_the_packaged_reference_is_the_documents() -> None:
    packaged = DOCS.parents[1] / "flaxen" / "server" / "pages" / "server.md"
    assert packaged.read_text() == DOCS.read_text(), f"copy {DOCS} to {packaged}"


def test_the_reference_has_every_route_and_field() -> None:
    text = DOCS.read_text()
    told = {word for code in re.findall(r"`+([^`]+)`+", text) for word in re.findall(r"\w+", code)}
    assert set(fields()) - told == set()
    routes = [f"{verb} {path}`".replace(":path", "") for verb, path in ALL]
    assert [route for route in routes if f"`{route}" not in text] == []


def test_the_page_is_the_reference_with_the_routes_that_are_there() -> None:
    page = get(make_app(), "/docs").text
    [routes, *_] = code(page)
    assert routes.split() == [
        part.replace(":path", "") for method, path in ALL for part in (method, path)
    ]
    for heading in re.findall(r"^## (.*)$", DOCS.read_text(), re.M):
        assert f">{heading.replace(chr(39), '&#39;')}</a>" in page
    assert page.count("<table>") == len(re.findall(r"^\|-", DOCS.read_text(), re.M))


def test_links_to_files_are_plain_and_html_is_text() -> None:
    text = "[a](b/c.md) [d](#one-two) <b>x</b>"
    made = make_reference(f"## One & two\n{text}\n\n| h |\n|---|\n| `v` |")
    assert made.sections == (("one-two", "One & two"),)
    assert '<h2 id="one-two">' in made.html
    assert "<a>a</a>" in made.html
    assert '<a href="#one-two">d</a>' in made.html
    assert "&lt;b&gt;x" in made.html
    assert "<td><code>v</code></td>" in made.html


@pytest.mark.parametrize("path", ["/", "/docs", "/health", "/v1/models"])
def test_head_is_answered_as_get(path: str) -> None:
    async def ask() -> Any:
        async with http_client(make_app()) as client:
            return await client.head(path)

    assert run(ask()).status_code == 200
