"""A server with several models: which of them answers, and what the others' routes say."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import Response

from flaxen.model_pool.app import create_pool_app
from flaxen.server.app import ALIASES, INVOCATIONS, ROUTES
from flaxen.server.config import ServerConfig
from tests.model_pool.fake_models import Fakes
from tests.server.clients import events, get, http_client, openai_client, post, run

HELLO = [{"role": "user", "content": "Hi"}]


def make(*, names: tuple[str, ...] = ("a", "b", "c"), **config: Any) -> tuple[Fakes, Any]:
    fakes = Fakes(config=ServerConfig(**config), chats=True)
    pool = fakes.pool(*map(fakes.model, names))
    return fakes, create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)


@pytest.mark.parametrize("name", ["a", "b", "c", None])
def test_the_requests_model_answers(name: str | None) -> None:
    fakes, app = make()
    body = {"prompt": "x", "max_tokens": 3} | ({} if name is None else {"model": name})
    answer = post(app, "/v1/completions", body)
    assert (answer.status_code, answer.json()["choices"][0]["text"]) == (200, "abc")
    assert answer.json()["model"] == (name or "a")
    assert fakes.log == [f"+{name or 'a'}"]
    assert len(fakes.engines[name or "a"].requests) == 1


def test_the_official_client_streams_from_each_model() -> None:
    async def work() -> None:
        fakes, app = make()
        async with openai_client(app) as client:
            for model in ("b", "a", "c", "b"):
                stream = await client.chat.completions.create(
                    model=model, messages=HELLO, max_tokens=4, stream=True
                )
                chunks = [chunk async for chunk in stream]
                assert {chunk.model for chunk in chunks} == {model}
                text = "".join(each.choices[0].delta.content or "" for each in chunks)
                assert text == "abcd"
        assert fakes.log == ["+b", "+a", "-b", "+c", "-a", "+b"]

    run(work())


def test_an_unknown_model_is_a_404_that_names_the_others() -> None:
    _, app = make()
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
        answer = post(app, path, {"model": "z", "prompt": "x"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (
            404,
            "model_not_found",
            "model",
        )
        assert error["message"] == "the model 'z' is not served here: use a or b or c"
    assert get(app, "/v1/models/z").status_code == 404
    answer = post(app, "/v1/completions", {"model": 7, "prompt": "x"})
    assert answer.json()["error"]["message"] == "model must be a string, got 7"


def test_aliases_and_adapters_belong_to_their_model() -> None:
    fakes = Fakes()
    one = fakes.model("a", names=("a", "gpt-4"))
    other = fakes.model("b", adapters=("polite",))
    pool = fakes.pool(one, other)
    app = create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)
    listed = {each["id"]: each for each in get(app, "/v1/models").json()["data"]}
    assert list(listed) == ["a", "gpt-4", "b", "polite"]
    assert (listed["polite"]["parent"], listed["polite"]["root"]) == ("b", "polite")
    assert get(app, "/v1/models/b:polite").json() == listed["polite"] | {"id": "b:polite"}
    answer = post(app, "/v1/completions", {"model": "gpt-4", "prompt": "x"})
    assert answer.json()["model"] == "gpt-4"
    assert fakes.log == ["+a"]
    # The model is loaded for its adapter; this fake then has none, and says so itself.
    assert post(app, "/v1/completions", {"model": "polite", "prompt": "x"}).status_code == 404
    assert fakes.log == ["+a", "+b"]


def test_models_have_their_state() -> None:
    fakes, app = make()
    fakes.faults["c"] = ValueError("no such file")
    post(app, "/v1/completions", {"model": "b", "prompt": "x"})
    answer = post(app, "/v1/completions", {"model": "c", "prompt": "x"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "10"
    assert answer.json()["error"] == {
        "message": "the model 'c' can't be used now: no such file",
        "type": "server_error",
        "param": "model",
        "code": "model_unavailable",
    }
    listed = get(app, "/v1/models").json()["data"]
    assert {each["id"]: each["status"] for each in listed} == {
        "a": {"value": "unloaded"},
        "b": {"value": "loaded"},
        "c": {"value": "failed", "error": "no such file"},
    }
    models = {"unloaded": 1, "loading": 0, "loaded": 1, "failed": 1}
    assert get(app, "/health").json() == {"status": "ok", "models": models}


def test_errors_of_a_body_are_the_models_own() -> None:
    fakes, app = make()
    answer = post(app, "/v1/completions", {"model": "b", "prompt": "x", "n": 0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert post(app, "/v1/completions", b"{").json()["error"]["code"] == "invalid_json"
    assert fakes.log == ["+b"]


def test_metrics_have_a_series_for_each_model_that_goes_on_after_an_unload() -> None:
    _, app = make()
    for model in ("a", "b", "c", "a"):  # a is unloaded for c, and comes back
        post(app, "/v1/completions", {"model": model, "prompt": "x", "max_tokens": 2})
    samples = {
        (sample.name.removeprefix("flaxen:"), sample.labels.get("model_name")): sample.value
        for family in text_string_to_metric_families(get(app, "/metrics").text)
        for sample in family.samples
        if "finished_reason" not in sample.labels or sample.labels["finished_reason"] == "length"
    }
    # Each fake engine says that it has computed 70 steps.
    assert {name: samples["engine_steps_total", name] for name in "abc"} == {
        "a": 140, "b": 70, "c": 70,
    }  # fmt: skip
    assert {name: samples["request_success_total", name] for name in "abc"} == {
        "a": 2, "b": 1, "c": 1,
    }  # fmt: skip
    assert {name: samples["model_loaded", name] for name in "abc"} == {"a": 1, "b": 0, "c": 1}
    assert {name: samples["num_requests_waiting", name] for name in "abc"} == {
        "a": 2,
        "b": 0,
        "c": 2,
    }
    assert samples["model_loads_total", "a"] == 2
    assert samples["models_memory_bytes", None] == samples["models_memory_limit_bytes", None] == 2


@pytest.mark.parametrize("keys", [(), ("secret",)])
def test_the_guard_is_around_all_models(keys: tuple[str, ...]) -> None:
    fakes, app = make(api_keys=keys)
    answer = post(app, "/v1/completions", {"model": "b", "prompt": "x"})
    assert answer.status_code == (401 if keys else 200)
    assert fakes.log == ([] if keys else ["+b"])
    page = get(app, "/").text
    assert ("<code>b</code>" in page, "3 models are served" in page) == ((not keys,) * 2)
    assert get(app, "/health").status_code == 200
    assert get(app, "/docs").status_code == 200


def test_every_route_of_one_model_is_there_too() -> None:
    _, app = make()
    aliases = [alias for alias, route in ALIASES.items() if route in ROUTES]
    for method, path in (*ROUTES, *aliases, INVOCATIONS):
        path = path.replace("{name:path}", "a").replace("{name}", "main.js")
        answer = (get if method == "GET" else post)(app, path)
        assert answer.status_code in (200, 415), path
    assert post(app, "/v1/nothing").status_code == 404
    assert get(app, "/v1/completions").status_code == 405


def test_routes_that_only_some_servers_have_reach_the_models_too() -> None:
    fakes = Fakes()
    app = create_pool_app(
        fakes.pool(fakes.model("a")), fakes.config, fakes.metrics, has_adapter_routes=False,
        more_routes=[("POST", "/v1/embeddings")],
    )  # fmt: skip
    answer = post(app, "/v1/embeddings", {"model": "a", "input": "x"})
    # The model was loaded for it, and this fake's application has no such route.
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
    assert fakes.log == ["+a"]


def test_routes_that_need_no_model_load_none() -> None:
    async def handler(http: Request) -> Response:
        return Response(http.path_params["name"])

    fakes = Fakes()
    app = create_pool_app(
        fakes.pool(fakes.model("a")), fakes.config, fakes.metrics, has_adapter_routes=False,
        own_routes={("GET", "/v1/kept/{name}"): handler},
    )  # fmt: skip
    assert get(app, "/v1/kept/x").text == "x"
    assert fakes.log == []


def test_a_client_that_leaves_while_its_model_is_loaded_waits_no_longer() -> None:
    async def work() -> None:
        fakes = Fakes(gates={"a": threading.Event()})
        pool = fakes.pool(fakes.model("a"))
        app = create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)
        (slot,) = pool.slots
        leaves = asyncio.Event()
        body = b'{"prompt": "x"}'
        received = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Any:
            message = next(received, None)
            if message is None:
                await leaves.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            raise AssertionError("nobody reads an answer")

        scope = {
            "type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
        }  # fmt: skip
        request = asyncio.create_task(app(scope, receive, send))
        while not slot.waiters:
            await asyncio.sleep(0.001)
        leaves.set()
        await asyncio.wait_for(request, 5)
        assert (slot.waiters, slot.num_open) == ([], 0)
        fakes.gates["a"].set()
        await pool.close()

    run(work())


def test_a_model_stays_while_it_streams() -> None:
    async def work() -> None:
        fakes = Fakes(step_s=0.02)
        pool = fakes.pool(fakes.model("a"), fakes.model("b"), budget_bytes=1)
        app = create_pool_app(pool, fakes.config, fakes.metrics, has_adapter_routes=False)
        body = {"model": "a", "prompt": "x", "max_tokens": 10, "stream": True}
        async with http_client(app) as client:
            streamed = asyncio.create_task(client.post("/v1/completions", json=body))
            while "a" not in fakes.engines or not fakes.engines["a"].open:
                await asyncio.sleep(0.001)
            other = await client.post("/v1/completions", json={"model": "b", "prompt": "x"})
            answer = await streamed
        texts = [each["choices"][0]["text"] for each in events(answer)[:-1]]
        assert "".join(texts) == "abcdefghij"
        assert other.status_code == 200
        assert fakes.log == ["+a", "-a", "+b"]
        assert [slot.num_open for slot in pool.slots] == [0, 0]

    run(work())
