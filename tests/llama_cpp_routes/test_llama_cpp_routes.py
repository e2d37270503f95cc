"""llama.cpp's own routes: the engine is asked as by other routes, and the answers are its own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from flaxen.llama_cpp_routes.routes import ROUTES
from flaxen.protocol import Finish, FinishReason, Request
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.text.tokenizer import Tokenizer
from tests.server.clients import events, get, post
from tests.server.fakes import BOS, VOCAB_SIZE, FakeEngine, byte_tokenizer

COMPLETION, CHAT = "/completion", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hi"}]
ENGINE = FakeEngine()
APP = create_app(ENGINE, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)


def answer_of(path: str, body: dict[str, Any]) -> Any:
    answer = post(APP, path, body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def asked(body: dict[str, Any], path: str = COMPLETION) -> Request:
    """What the engine is asked for by a body."""
    answer_of(path, body)
    return ENGINE.requests[-1]


def error_of(body: dict[str, Any]) -> tuple[str, str, str]:
    answer = post(APP, COMPLETION, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["code"], error["message"]


def test_a_prompt_is_continued() -> None:
    found = answer_of(COMPLETION, {"prompt": "Hi", "n_predict": 3, "return_tokens": True})
    timings = found.pop("timings")
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (2, 1, 3)
    assert all(value >= 0 for value in timings.values())
    settings = found.pop("generation_settings")
    assert (settings["n_predict"], settings["seed"], settings["logit_bias"]) == (3, -1, [])
    assert found == {
        "index": 0, "content": "abc", "tokens": [97, 98, 99], "id_slot": -1, "stop": True,
        "model": "fake/model", "tokens_predicted": 3, "tokens_evaluated": 3, "tokens_cached": 1,
        "prompt": "Hi", "has_new_line": False, "truncated": False, "stop_type": "limit",
        "stopping_word": "", "weights_version": 0,
    }  # fmt: skip


def test_a_stream_is_the_whole_answer_in_parts() -> None:
    body = {"prompt": "Hi", "n_predict": 3, "n_probs": 2}
    whole = answer_of(COMPLETION, body)
    streamed = post(APP, COMPLETION, body | {"stream": True, "timings_per_token": True})
    *parts, last = events(streamed)  # and no [DONE] behind it
    assert "".join(part["content"] for part in parts) == whole["content"] == "abc"
    assert [token for part in parts for token in part["tokens"]] == [97, 98, 99]
    probabilities = [each for part in parts for each in part["completion_probabilities"]]
    assert probabilities == whole["completion_probabilities"]
    assert [part["stop"] for part in parts] == [False] * 3
    assert [part["timings"]["predicted_n"] for part in parts] == [1, 2, 3]
    assert (last["stop"], last["content"], last["tokens"]) == (True, "", [])
    for name in ("tokens_predicted", "stop_type", "prompt"):
        assert last[name] == whole[name]


def test_the_likeliest_tokens_are_told_of_each() -> None:
    [told] = answer_of(COMPLETION, {"prompt": "Hi", "n_predict": 1, "n_probs": 2})[
        "completion_probabilities"
    ]
    first = {"id": 97, "token": "a", "bytes": [97], "logprob": -0.5}
    second = {"id": 96, "token": "`", "bytes": [96], "logprob": -1.5}
    assert told == first | {"top_logprobs": [first, second]}


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("Hi", [[BOS, 72, 105]]),
        ([72, 105.0], [[72, 105]]),
        ([72, "i", "!"], [[72, 105, 33]]),
        (["i", 72], [[BOS, 105, 72]]),
        ({"prompt_string": "i"}, [[BOS, 105]]),
        (["i", "!"], [[BOS, 105], [BOS, 33]]),
        ([[72], "i", {"prompt_string": "!", "multimodal_data": []}], [[72], [BOS, 105], [BOS, 33]]),
    ],
    ids=str,
)
def test_forms_of_prompts(prompt: Any, ids: list[list[int]]) -> None:
    num_before = len(ENGINE.requests)
    found = answer_of(COMPLETION, {"prompt": prompt, "n_predict": 2})
    assert [list(each.prompt_token_ids) for each in ENGINE.requests[num_before:]] == ids
    answers = found if len(ids) > 1 else [found]
    assert [each["index"] for each in answers] == list(range(len(ids)))
    assert [each["tokens_evaluated"] for each in answers] == list(map(len, ids))


def test_its_names_are_those_of_other_routes() -> None:
    sampling = asked(
        {"prompt": "a", "n_predict": 5, "repeat_penalty": 1.5, "repeat_last_n": -1, "seed": -1,
         "logit_bias": [[7, 2.5], ["bc", False]], "n_probs": 0, "n_keep": 4, "dry_multiplier": 0.0,
         "dry_base": 1.75, "id_slot": 3, "temperature": 0.5}
    ).sampling  # fmt: skip
    assert (sampling.max_tokens, sampling.repetition_penalty, sampling.seed) == (5, 1.5, None)
    assert sampling.logit_bias == {7: 2.5, 98: -100.0, 99: -100.0}
    assert (sampling.logprobs, sampling.temperature) == (None, 0.5)
    assert asked({"prompt": "a", "logit_bias": {"7": -1, "b": 3}, "n_predict": 1}).sampling == (
        asked({"prompt": "a", "logit_bias": [["7", -1], [98, 3]], "max_tokens": 1}).sampling
    )


@pytest.mark.parametrize("n_predict", [None, -1, -2])
def test_as_many_tokens_as_fit(n_predict: int | None) -> None:
    sampled = asked({"prompt": "a", "n_predict": n_predict}).sampling
    assert sampled.max_tokens == 4096 - 2


@pytest.mark.parametrize("path", [COMPLETION, "/v1/completions", CHAT])
def test_structures_by_its_names(path: str) -> None:
    body: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "a"}
    schema = {"type": "object"}
    found = asked(body | {"json_schema": schema}, path).sampling.structured_outputs
    assert found is not None
    assert (found.kind, json.loads(found.text)) == ("json", schema)
    found = asked(body | {"grammar": 'root ::= "a"'}, path).sampling.structured_outputs
    assert found is not None
    assert (found.kind, found.text) == ("grammar", 'root ::= "a"')


@pytest.mark.parametrize("path", [COMPLETION, "/v1/completions", CHAT])
def test_a_prompt_that_is_not_kept_shares_nothing(path: str) -> None:
    body: dict[str, Any] = {"messages": HELLO} if path == CHAT else {"prompt": "a"}
    assert asked(body | {"cache_prompt": True}, path).cache_salt == ""
    first, second = (asked(body | {"cache_prompt": False}, path).cache_salt for _ in range(2))
    assert "" != first != second != ""


def test_how_an_answer_ended() -> None:
    def ending(finish: Finish) -> tuple[str, str, bool]:
        app = create_app(
            FakeEngine(ends={1: finish}), byte_tokenizer(), ServerConfig(), more_routes=ROUTES
        )
        found = post(app, COMPLETION, {"prompt": "Hi"}).json()
        return found["stop_type"], found["stopping_word"], found["truncated"]

    counts: dict[str, Any] = {"num_prompt_tokens": 3, "num_output_tokens": 2}
    counts |= {"num_cached_tokens": 0, "queue_s": 0.0}
    assert ending(Finish(reason=FinishReason.STOP, **counts)) == ("eos", "", False)
    word = Finish(reason=FinishReason.STOP, stop_reason="zz", **counts)
    assert ending(word) == ("word", "zz", False)
    full = FakeEngine(max_model_len=5)
    app = create_app(full, byte_tokenizer(), ServerConfig(), more_routes=ROUTES)
    found = post(app, COMPLETION, {"prompt": "Hi"}).json()
    assert (found["stop_type"], found["truncated"]) == ("limit", True)


def test_only_the_fields_that_are_asked_for() -> None:
    fields = ["content", "generation_settings/n_predict", "no/such", "prompt"]
    found = answer_of(COMPLETION, {"prompt": "Hi", "n_predict": 2, "response_fields": fields})
    assert found == {"content": "ab", "generation_settings/n_predict": 2, "prompt": "Hi"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [True]}, "prompt", "invalid_type"),
        ({"prompt": {"prompt_string": 3}}, "prompt", "invalid_type"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["x"]}}, "prompt", "invalid_value"),
        ({"prompt": [300]}, "prompt", "invalid_value"),
        ({"prompt": "a", "n_predict": 0}, "n_predict", "invalid_value"),
        ({"prompt": "a", "n_predict": 5000}, "n_predict", "context_length_exceeded"),
        ({"prompt": "a", "n_predict": 1, "max_tokens": 1}, "n_predict", "invalid_value"),
        ({"prompt": "a", "n_probs": 99}, "n_probs", "invalid_value"),
        ({"prompt": "a", "logit_bias": [[1, True]]}, "logit_bias", "invalid_type"),
        ({"prompt": "a", "logit_bias": 3}, "logit_bias", "invalid_type"),
        ({"prompt": "a", "logit_bias": [[300, 1]]}, "logit_bias", "invalid_value"),
        ({"prompt": "a", "mirostat": 2}, "mirostat", "unsupported_parameter"),
        ({"prompt": "a", "repeat_last_n": 64}, "repeat_last_n", "unsupported_parameter"),
        ({"prompt": "a", "n": 2}, "n", "unsupported_parameter"),
        ({"prompt": "a", "no_such": 2}, "no_such", "unknown_parameter"),
    ],
    ids=str,
)
def test_bad_bodies(body: dict[str, Any], param: str, code: str) -> None:
    assert error_of(body)[:2] == (param, code)


def test_chats_tell_their_times_where_asked() -> None:
    body = {"messages": HELLO, "max_tokens": 2, "timings_per_token": True}
    assert answer_of(CHAT, body)["timings"]["predicted_n"] == 2
    assert "timings" not in answer_of(CHAT, body | {"timings_per_token": False})
    more = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(post(APP, CHAT, body | more))[:-1]
    assert "timings" not in chunks[0]  # it has no token
    assert [each["timings"]["predicted_n"] for each in chunks[1:]] == [1, 2, 2]


def test_texts_as_tokens_and_back() -> None:
    assert answer_of("/tokenize", {"content": "Hi"}) == {"tokens": [72, 105]}
    assert answer_of("/tokenize", {"content": "Hi", "add_special": True}) == {
        "tokens": [BOS, 72, 105]
    }
    pieces = answer_of("/tokenize", {"content": "é!", "with_pieces": True})["tokens"]
    assert pieces == [
        {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}, {"id": 33, "piece": "!"},
    ]  # fmt: skip
    assert answer_of("/detokenize", {"tokens": [72, 105]})["content"] == "Hi"


def test_a_chat_as_a_text_and_its_tokens() -> None:
    text = answer_of("/apply-template", {"messages": HELLO})["prompt"]
    assert text == "[user]Hi</s>[assistant]"
    closed = {"messages": HELLO, "add_generation_prompt": False}
    assert answer_of("/apply-template", closed)["prompt"] == "[user]Hi</s>"
    for path in ("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"):
        # "</s>" is one token.
        assert answer_of(path, {"messages": HELLO}) == {"input_tokens": len(text) - 3}


def test_a_gap_between_two_texts_is_filled() -> None:
    tokenizer = byte_tokenizer()
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"]
    tokenizer.parts.backend.add_special_tokens(marks)
    engine = FakeEngine()
    engine.info = replace(engine.info, vocab_size=VOCAB_SIZE + len(marks))
    app = create_app(engine, Tokenizer(tokenizer.parts), ServerConfig(), more_routes=ROUTES)
    before, behind, gap, between = range(VOCAB_SIZE, VOCAB_SIZE + len(marks))
    body: dict[str, Any] = {"input_prefix": "a", "prompt": "b", "input_suffix": "c"}
    found = post(app, "/infill", body | {"n_predict": 2})
    assert found.json()["content"] == "ab"
    asked = engine.requests[-1]
    assert asked.prompt_token_ids == (BOS, before, 97, 98, behind, 99, gap)
    assert (asked.sampling.max_tokens, asked.sampling.stop) == (2, ("<|file_sep|>",))
    extra = {"input_extra": [{"filename": "f", "text": "x"}], "stop": ["!"], "n_predict": 1}
    assert post(app, "/infill", body | extra).status_code == 200
    ids = (BOS, between, *b"f\nx\n", between, before, 97, 98, behind, 99, gap)
    assert engine.requests[-1].prompt_token_ids == ids
    assert engine.requests[-1].sampling.stop == ("!",)
    wrong = post(app, "/infill", body | {"input_extra": [{"filename": "f"}]})
    assert wrong.json()["error"]["param"] == "input_extra[0].text"
    refused = post(APP, "/infill", body)  # a model without such tokens
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")


def test_props() -> None:
    found = get(APP, "/props").json()
    assert found["default_generation_settings"] == {"n_ctx": 4096, "params": {}}
    assert (found["model_alias"], found["eos_token"]) == ("fake/model", "</s>")
    assert found["modalities"] == {"vision": False, "audio": False}
    assert "{% for m in messages %}" in found["chat_template"]
