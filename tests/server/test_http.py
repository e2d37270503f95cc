"""What holds for every route: keys, ids, sizes, media types, unknown routes and models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from flaxen import __version__
from flaxen.server.app import ALIASES, INVOCATIONS, ROUTES, create_app
from flaxen.server.config import ServerConfig
from flaxen.server.guard import OPEN_FOLDER, OPEN_PATHS
from tests.server.clients import events, get, http_client, make_app, openai_client, post, run
from tests.server.fakes import TEMPLATE, FakeEngine, byte_tokenizer

OK = {"prompt": "a", "max_tokens": 1}
# Applications for tests of many cases: each has a process for its chat template.
KEYED = make_app(api_keys=("right", "second"))
SMALL = make_app(max_body_bytes=100)
BODY_PATHS = [path for method, path in (*ROUTES, INVOCATIONS) if method == "POST"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        route
        for route in (*ROUTES, *ALIASES, INVOCATIONS)
        if route[1] not in OPEN_PATHS and not route[1].startswith(OPEN_FOLDER)
    ],
)
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic right", "Bearer r\xe9"])
def test_routes_want_the_key(method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {b"authorization": header.encode("latin-1")}
    if header == "Bearer":  # the same for the other header
        headers = {b"x-api-key": b"r\xe9"}

    async def send() -> Any:
        async with http_client(KEYED) as client:
            return await client.request(method, path, headers=headers)

    answer = run(send())
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert ("missing" if header is None else "wrong") in error["message"]


def test_health_needs_no_key_and_any_key_opens() -> None:
    app = make_app(api_keys=("right", "second"))
    assert get(app, "/health").status_code == 200
    assert get(app, "/version", authorization="Bearer second").status_code == 200
    assert get(app, "/v1/health").json() == get(app, "/ping").json() == {"status": "ok"}
    assert post(app, "/ping").status_code == 200
    assert get(app, "/nothing").status_code == 401


def test_the_key_may_come_as_anthropics_clients_send_it() -> None:
    app = make_app(api_keys=("right", "second"))
    assert get(app, "/version", **{"x-api-key": "second"}).status_code == 200
    # Many clients always send a bearer, and have something in it.
    sent = {"x-api-key": "right", "authorization": "Bearer unused"}
    assert get(app, "/version", **sent).status_code == 200
    answer = get(app, "/version", **{"x-api-key": "wrong"})
    assert answer.status_code == 401
    assert "'x-api-key: KEY'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("prefix", ["", "/llm/a"])
def test_a_proxy_may_cut_off_the_root_path_or_leave_it(prefix: str) -> None:
    app = make_app(root_path="/llm/a", api_keys=("right",))
    assert get(app, f"{prefix}/health").status_code == 200
    assert get(app, f"{prefix}/v1/models").status_code == 401
    answer = get(app, f"{prefix}/v1/models", authorization="Bearer right")
    assert answer.json()["data"][0]["id"] == "fake/model"
    page = get(app, f"{prefix}/").text
    assert 'href="/llm/a/docs"' in page
    assert "http://flaxen/llm/a/v1" in page
    assert get(app, "/llm/ab/health").status_code == 401
    assert get(app, "/llm/a/llm/a/health").status_code == 401


def test_aliases_answer_as_their_routes() -> None:
    app = make_app()
    assert get(app, "/models").json() == get(app, "/v1/models").json()
    assert post(app, "/completions", OK).json()["choices"][0]["text"] == "a"
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert post(app, "/chat/completions", chat).json()["object"] == "chat.completion"
    assert post(app, "/embeddings", {"input": "a"}).status_code == 404  # as /v1/embeddings here


def test_invocations_are_told_apart_by_their_fields() -> None:
    app = make_app()
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    assert post(app, "/invocations", chat).json()["object"] == "chat.completion"
    assert post(app, "/invocations", OK).json()["object"] == "text_completion"
    *_, done = events(post(app, "/invocations", OK | {"stream": True}))
    assert done == "[DONE]"
    for body in ({}, {"input": "a"}, {"query": "a"}):  # this server has no route for the latter
        error = post(app, "/invocations", body).json()["error"]
        assert "must have messages, prompt, input, text_1 or query" in error["message"]


def test_load_is_the_number_of_open_sequences() -> None:
    engine = FakeEngine()
    app = make_app(engine)
    assert get(app, "/load").json() == {"server_load": 2}  # the fake says that two wait
    engine.open.add("one")
    assert get(app, "/load").json() == {"server_load": 3}


def test_what_is_told_of_a_tokenizer() -> None:
    told = get(make_app(), "/tokenizer_info").json()
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (told["bos_token"], told["eos_token"]) == ("<s>", "</s>")
    assert told["model_max_length"] == 4096
    assert told["chat_template"] == TEMPLATE
    tokens = told["added_tokens_decoder"]
    assert {key: each["content"] for key, each in tokens.items()} == {"256": "<s>", "257": "</s>"}
    assert tokens["256"]["special"] is True


def test_official_client_raises_its_own_errors() -> None:
    async def ask(app: Any, **body: Any) -> None:
        async with openai_client(app) as client:
            await client.completions.create(**{"model": "fake/model", "prompt": "a"} | body)

    with pytest.raises(openai.AuthenticationError, match="API key is wrong"):
        run(ask(make_app(api_keys=("right",))))
    with pytest.raises(openai.NotFoundError, match="use fake/model") as caught:
        run(ask(make_app(), model="gpt-4"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature must be"):
        run(ask(make_app(), temperature=-1))
    with pytest.raises(openai.RateLimitError, match="queue is full"):
        run(ask(make_app(FakeEngine(max_waiting=0))))


def test_request_ids() -> None:
    app = make_app()
    answer = post(app, "/v1/completions", json=OK, headers={"x-request-id": "my-id.7"})
    assert answer.headers["x-request-id"] == "my-id.7"
    assert answer.json()["id"] == "cmpl-my-id.7"
    given = get(app, "/health").headers["x-request-id"]
    assert len(given) == 32
    assert get(app, "/health").headers["x-request-id"] != given
    for bad in ("a b", "", "x" * 129, "é".encode()):
        answer = post(app, "/v1/completions", json=OK, headers={"x-request-id": bad})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-request-id"
        assert "1 to 128 letters" in answer.json()["error"]["message"]


def test_one_request_id_twice_is_two_requests_of_the_engine() -> None:
    engine = FakeEngine()
    for _ in range(2):
        post(make_app(engine), "/v1/completions", json=OK, headers={"x-request-id": "same"})
    assert len({request.request_id for request in engine.requests}) == 2


def test_unknown_routes_and_methods() -> None:
    error = get(make_app(), "/v1/images").json()["error"]
    assert (error["code"], error["type"]) == ("unknown_url", "invalid_request_error")
    assert "GET /v1/images" in error["message"]
    assert get(make_app(), "/v1/models/").status_code == 404
    answer = get(make_app(), "/v1/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert "takes POST only" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", BODY_PATHS)
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_too_large(path: str, declared: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 20

    content = b" " * 200 if declared else chunks()
    answer = post(
        SMALL,
        path,
        content=content,
        headers={"content-type": "application/json"},
    )
    assert ("content-length" in answer.request.headers) is declared
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "body_too_large"
    assert "larger than 100 bytes" in error["message"]


def test_a_body_of_exactly_the_limit() -> None:
    body = b'{"prompt":"a"}'
    assert post(make_app(max_body_bytes=len(body)), "/tokenize", body).status_code == 200
    assert post(make_app(max_body_bytes=len(body) - 1), "/tokenize", body).status_code == 413


def test_a_length_of_many_digits() -> None:
    headers = {"content-type": "application/json", "content-length": "9" * 5000}
    assert post(make_app(), "/tokenize", content=b"{}", headers=headers).status_code == 413


def test_a_body_that_never_comes() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.sleep(10)
        yield b""

    answer = post(
        make_app(body_timeout_s=0.05),
        "/tokenize",
        content=nothing(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 408
    assert "within 0.05 seconds" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_media_types(headers: dict[str, str]) -> None:
    answer = post(make_app(), "/tokenize", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"].startswith("unsupported_")


def test_json_with_a_charset() -> None:
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    answer = post(make_app(), "/tokenize", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 200


def test_cors_answers_a_preflight_without_a_key() -> None:
    app = make_app(api_keys=("right",), cors_origins=("https://a.example",))

    async def preflight(origin: str) -> Any:
        async with http_client(app) as client:
            headers = {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,x-stainless-lang",
            }
            return await client.options("/v1/completions", headers=headers)

    answer = run(preflight("https://a.example"))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert answer.headers["access-control-allow-headers"] == "authorization,x-stainless-lang"
    assert "access-control-allow-origin" not in run(preflight("https://b.example")).headers
    answer = get(app, "/version", origin="https://a.example")
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_models() -> None:
    app = make_app(served_model_names=("main", "also/this"))
    models = get(app, "/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["main", "also/this"]
    assert models["data"][0]["root"] == "fake/model"
    assert models["data"][0]["max_model_len"] == 4096
    assert get(app, "/v1/models/also/this").json()["id"] == "also/this"
    answer = get(app, "/v1/models/fake/model")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert post(app, "/v1/completions", OK).json()["model"] == "main"
    assert post(app, "/v1/completions", OK | {"model": "also/this"}).json()["model"] == "also/this"


def test_version() -> None:
    assert get(make_app(), "/version").json() == {"version": __version__}


def test_tokenize_and_back() -> None:
    answer = post(make_app(), "/tokenize", {"prompt": "é", "return_token_strs": True}).json()
    assert answer == {
        "count": 3,
        "max_model_len": 4096,
        "tokens": [256, 0xC3, 0xA9],
        "token_strs": ["<s>", "Ã", "©"],
    }
    assert post(make_app(), "/detokenize", {"tokens": answer["tokens"]}).json()["prompt"] == "<s>é"
    body = {"prompt": "", "add_special_tokens": False}
    assert post(make_app(), "/tokenize", body).json()["tokens"] == []


def test_tokenize_messages_as_chat_would() -> None:
    engine = FakeEngine()
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    app = make_app(engine)
    tokens = post(app, "/tokenize", body).json()["tokens"]
    post(app, "/v1/chat/completions", body | {"max_tokens": 1})
    assert tuple(tokens) == engine.requests[0].prompt_token_ids


def test_a_model_without_a_template_refuses_messages() -> None:
    app = create_app(FakeEngine(), byte_tokenizer(None), ServerConfig())
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    error = post(app, "/v1/chat/completions", body).json()["error"]
    assert error["code"] == "no_chat_template"
    assert "use /v1/completions" in error["message"]


def test_named_templates_without_a_default_serve_completions() -> None:
    tokenizer = byte_tokenizer(None, named_templates={"rag": "r"})
    app = create_app(FakeEngine(), tokenizer, ServerConfig())
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    error = post(app, "/v1/chat/completions", body).json()["error"]
    assert error["code"] == "no_chat_template"
    assert "has the chat templates rag and none named default" in error["message"]
    assert post(app, "/v1/completions", {"prompt": "Hi"}).status_code == 200


def test_a_broken_template_is_found_at_the_start() -> None:
    with pytest.raises(ValueError, match="not valid Jinja"):
        create_app(FakeEngine(), byte_tokenizer("{% if %}"), ServerConfig())
