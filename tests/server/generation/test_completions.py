"""/v1/completions through the official client, against tokens computed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from flaxen.protocol import Request
from tests.server.clients import events, make_app, openai_client, post, run
from tests.server.fakes import BOS, STOP, FakeEngine

MODEL = "fake/model"


def create(app: Any, **body: Any) -> Any:
    async def work() -> Any:
        async with openai_client(app) as client:
            return await client.completions.create(**{"model": MODEL} | body)

    return run(work())


def stream(app: Any, **body: Any) -> list[Any]:
    return events(post(app, "/v1/completions", {"stream": True} | body))


def test_answers_one_prompt() -> None:
    answer = create(make_app(), prompt="xy", max_tokens=3)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.model == MODEL
    [choice] = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "abc", "length")
    assert choice.logprobs is None
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 3, 6)
    assert usage.prompt_tokens_details.cached_tokens == 1


def test_default_max_tokens_is_16_and_null_is_the_models_length() -> None:
    app = make_app(FakeEngine(max_model_len=40))
    assert create(app, prompt="xy").usage.completion_tokens == 16
    body = {"prompt": "xy", "max_tokens": None}
    assert post(app, "/v1/completions", body).json()["usage"]["completion_tokens"] == 37


def test_default_max_tokens_is_cut_to_the_room_left() -> None:
    assert create(make_app(FakeEngine(max_model_len=8)), prompt="xy").usage.completion_tokens == 5


def test_the_longest_prompt_fits() -> None:
    app = make_app(FakeEngine(max_model_len=8))
    assert create(app, prompt=[1] * 7, max_tokens=1).usage.total_tokens == 8


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("é", [(BOS, 0xC3, 0xA9)]),
        (["a", "bc"], [(BOS, 97), (BOS, 98, 99)]),
        ([5, 6], [(5, 6)]),
        ([[5], [6, 7]], [(5,), (6, 7)]),
    ],
)
def test_every_form_of_a_prompt(prompt: Any, ids: list[tuple[int, ...]]) -> None:
    engine = FakeEngine()
    answer = create(make_app(engine), prompt=prompt, max_tokens=1)
    assert [request.prompt_token_ids for request in engine.requests] == ids
    assert len(answer.choices) == len(ids)
    assert answer.usage.prompt_tokens == sum(map(len, ids))


def test_prompts_times_n_in_order() -> None:
    def says(request: Request, index: int) -> list[int]:
        return [request.prompt_token_ids[0], ord("0") + index]

    answer = create(make_app(FakeEngine(says=says)), prompt=[[65], [66]], n=2, max_tokens=2)
    assert [(c.index, c.text) for c in answer.choices] == [
        (0, "A0"), (1, "A1"), (2, "B0"), (3, "B1"),
    ]  # fmt: skip
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 8
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_stream_says_the_same_as_the_whole() -> None:
    app = make_app()
    body = {"prompt": ["x", "y"], "n": 2, "max_tokens": 5, "logprobs": 2, "return_token_ids": True}
    whole = post(app, "/v1/completions", body).json()
    chunks = stream(app, **body)
    assert chunks.pop() == "[DONE]"
    for choice in whole["choices"]:
        parts = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [v for part in parts for v in part["logprobs"][name]] == values
        assert [i for part in parts for i in part["token_ids"]] == choice["token_ids"]
        assert parts[0]["prompt_token_ids"] == choice["prompt_token_ids"]
        assert [part["finish_reason"] for part in parts] == [None] * 4 + ["length"]
    assert all("usage" not in chunk for chunk in chunks)
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


def test_official_client_reads_the_stream() -> None:
    async def work() -> tuple[str, Any]:
        async with openai_client(make_app()) as client:
            parts, usage = [], None
            chunks = await client.completions.create(
                model=MODEL,
                prompt="x",
                max_tokens=4,
                stream=True,
                stream_options={"include_usage": True},
            )
            async for chunk in chunks:
                usage = chunk.usage or usage
                parts += [choice.text for choice in chunk.choices]
            return "".join(parts), usage

    text, usage = run(work())
    assert text == "abcd"
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 4)


def test_usage_in_a_stream() -> None:
    app = make_app()
    options = {"include_usage": True}
    chunks = stream(app, prompt="x", max_tokens=2, stream_options=options)
    assert [chunk["usage"] for chunk in chunks[:-2]] == [None, None]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["completion_tokens"] == 2

    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(app, prompt="x", max_tokens=2, stream_options=options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:-1]] == [1, 2, 2]
    options = {"continuous_usage_stats": True}  # implies include_usage, unless that is false
    assert stream(app, prompt="x", max_tokens=2, stream_options=options)[0]["usage"] is not None
    options["include_usage"] = False
    for chunk in stream(app, prompt="x", max_tokens=2, stream_options=options)[:-1]:
        assert "usage" not in chunk


def test_half_a_character_waits_for_the_other() -> None:
    def says(request: Request, index: int) -> list[int]:
        return list("é\u2028!".encode())

    chunks = stream(make_app(FakeEngine(says=says)), prompt="x", max_tokens=6)
    texts = [chunk["choices"][0]["text"] for chunk in chunks[:-1]]
    assert texts == ["é", "\u2028", "!"]


def test_logprobs() -> None:
    answer = create(make_app(), prompt="x", max_tokens=2, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["a", "b"]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.top_logprobs == [{"a": -0.5, "`": -1.5}, {"b": -0.5, "a": -1.5}]
    assert logprobs.text_offset == [0, 1]


def test_logprobs_0_names_the_token_itself() -> None:
    answer = create(make_app(), prompt="x", max_tokens=1, logprobs=0)
    assert answer.choices[0].logprobs.top_logprobs == [{"a": -0.5}]


def test_tokens_as_token_ids() -> None:
    body = {"prompt": "x", "max_tokens": 1, "logprobs": 1, "return_tokens_as_token_ids": True}
    choice = post(make_app(), "/v1/completions", body).json()["choices"][0]
    assert choice["logprobs"]["tokens"] == ["token_id:97"]
    assert choice["logprobs"]["top_logprobs"] == [{"token_id:97": -0.5}]


def test_echo() -> None:
    app = make_app()
    assert create(app, prompt="xy", max_tokens=2, echo=True).choices[0].text == "xyab"
    assert create(app, prompt=[104, 105], max_tokens=2, echo=True).choices[0].text == "hiab"
    chunks = stream(app, prompt="xy", max_tokens=2, echo=True)
    assert [chunk["choices"][0]["text"] for chunk in chunks[:-1]] == ["xya", "b"]


@pytest.mark.parametrize("streamed", [False, True])
def test_echo_with_logprobs_and_no_tokens_scores_the_prompt(streamed: bool) -> None:
    body = {"prompt": [104, 105], "max_tokens": 0, "echo": True, "logprobs": 1}
    if streamed:
        chunk = stream(make_app(), **body, stream_options={"include_usage": True})
        choice, usage = chunk[0]["choices"][0], chunk[-2]["usage"]
    else:
        answer = post(make_app(), "/v1/completions", body).json()
        choice, usage = answer["choices"][0], answer["usage"]
    assert choice["text"] == "hi"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] == {
        "tokens": ["h", "i"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"i": -0.5}],
        "text_offset": [0, 1],
    }
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (2, 0)


def test_echo_with_logprobs_and_n() -> None:
    answer = create(make_app(), prompt=[104], max_tokens=1, echo=True, logprobs=0, n=2)
    assert [c.logprobs.tokens for c in answer.choices] == [["h", "a"], ["h", "b"]]


def test_prompt_logprobs_trimmed_beside_larger_logprobs() -> None:
    body = {"prompt": [104, 105], "echo": True, "logprobs": 3, "prompt_logprobs": 1}
    choice = post(make_app(), "/v1/completions", body).json()["choices"][0]
    assert choice["prompt_logprobs"] == [
        None,
        {"105": {"logprob": -0.5, "rank": 1, "decoded_token": "i"}},
    ]
    assert choice["logprobs"]["top_logprobs"][1] == {"i": -0.5, "h": -1.5, "g": -2.5}


def test_every_sampling_field_reaches_the_engine() -> None:
    engine = FakeEngine()
    given = {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "seed": 3,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1,
        "min_tokens": 1, "max_tokens": 5, "ignore_eos": True, "skip_special_tokens": False,
        "include_stop_str_in_output": True, "logprobs": 2, "prompt_logprobs": 1,
    }  # fmt: skip
    lists = {"stop": ["q"], "bad_words": ["w"], "stop_token_ids": [9], "allowed_token_ids": [8, 9]}
    body = given | lists | {"logit_bias": {"5": -1}, "cache_salt": "s", "prompt": "x"}
    assert post(make_app(engine), "/v1/completions", body).status_code == 200
    [request] = engine.requests
    assert {name: getattr(request.sampling, name) for name in given} == given
    assert {name: list(getattr(request.sampling, name)) for name in lists} == lists
    assert request.sampling.logit_bias == {5: -1.0}
    assert request.cache_salt == "s"
    assert request.timeout_s == 3600


def test_null_means_not_given() -> None:
    engine = FakeEngine()
    names = ["temperature", "top_p", "n", "stop", "logit_bias", "seed", "user", "stream", "suffix"]
    body = {"prompt": "x"} | dict.fromkeys(names)
    assert post(make_app(engine), "/v1/completions", body).status_code == 200
    assert engine.requests[0].sampling.temperature == 1.0


def test_one_stop_string_and_a_large_top_k() -> None:
    engine = FakeEngine()
    create(make_app(engine), prompt="x", stop="q", extra_body={"top_k": 10**30})
    assert engine.requests[0].sampling.stop == ("q",)
    assert engine.requests[0].sampling.top_k == engine.info.vocab_size


def test_stop_reason() -> None:
    body = {"prompt": "x", "stop_token_ids": [99]}
    choice = post(make_app(), "/v1/completions", body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("abc", "stop", 99)
    choice = stream(make_app(), **body)[-2]["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", 99)
    choice = post(make_app(FakeEngine(ends={1: STOP})), "/v1/completions", body).json()["choices"][
        0
    ]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)


def test_add_special_tokens() -> None:
    engine = FakeEngine()
    body = {"prompt": "x", "add_special_tokens": False}
    assert post(make_app(engine), "/v1/completions", body).status_code == 200
    assert engine.requests[0].prompt_token_ids == (120,)


def test_fields_that_ask_for_nothing_are_accepted() -> None:
    body = {"prompt": "x", "user": "u", "suffix": "", "best_of": 2, "n": 2, "store": False,
            "service_tier": "auto", "metadata": {"a": "b"}, "safety_identifier": "s"}  # fmt: skip
    assert post(make_app(), "/v1/completions", body).status_code == 200


def test_a_long_prompt_is_tokenized_too() -> None:
    app = make_app(FakeEngine(max_model_len=100_000))
    assert create(app, prompt="x" * 30_000, max_tokens=1).usage.prompt_tokens == 30_001
