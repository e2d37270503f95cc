"""`text_offset` is the number of characters of the text before a token, whole and streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.engine.outputs import SequenceOutput
from flaxen.protocol import Request, SamplingParams, TokenEvent
from flaxen.scheduling.checked import CheckedRequest
from flaxen.scheduling.sequence import sequence_of
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.server.generation.prompts import Prompt
from flaxen.server.generation.text_offset import OffsetWriter, prompt_offsets
from tests.server.clients import events, post
from tests.server.fakes import BOS, END, FakeEngine, byte_tokenizer, likely

TOKENIZER = byte_tokenizer(chat_template=None)


def outputs(request: Request, ids: list[int], index: int) -> Iterator[TokenEvent]:
    """The engine's events of a sequence that samples these tokens, up to its end."""
    checked = CheckedRequest(request=request, adapter=None, row_settings=None, grammars=())
    sampling, sequence = request.sampling, sequence_of(checked, index, 0, 0.0)
    sequence.max_num_tokens = len(sequence.tokens) + (sampling.max_tokens or 100)
    output = SequenceOutput(sequence, TOKENIZER, (END,))
    if sampling.prompt_logprobs is not None and index == 0:
        output.prompt_logprobs = [None, *(likely(i, 0) for i in request.prompt_token_ids[1:])]
    for token_id in ids:
        sequence.tokens.append(token_id)
        scores = None if sampling.logprobs is None else likely(token_id, 0)
        event = output.push(token_id, scores)
        yield event
        if event.finish is not None:
            return


class TextEngine(FakeEngine):
    """Gives the text of its tokens as the real engine does: with stop strings."""

    async def _run(self, request: Request) -> AsyncIterator[TokenEvent]:
        for index in range(request.sampling.n):
            for event in outputs(request, self._says(request, index), index):
                yield event


def app_of(engine: TextEngine) -> Any:
    return create_app(engine, TOKENIZER, ServerConfig())


def answer(says: list[int] | str, **body: Any) -> tuple[str, list[int], list[str]]:
    """The text, its tokens' offsets and their names; a stream's must be the same."""
    ids = list(says.encode()) if isinstance(says, str) else says
    app = app_of(TextEngine(says=lambda request, index: ids))
    fields = {"prompt": "Hé", "max_tokens": len(ids), "logprobs": 0} | body
    whole = post(app, "/v1/completions", fields)
    assert whole.status_code == 200, whole.text
    choice = whole.json()["choices"][0]
    streamed = events(post(app, "/v1/completions", fields | {"stream": True}))
    parts = [part for chunk in streamed[:-1] for part in chunk["choices"]]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for name, values in choice["logprobs"].items():
        joined = [v for part in parts if part["logprobs"] for v in part["logprobs"][name]]
        assert joined == values, name
    offsets: list[int] = choice["logprobs"]["text_offset"]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(choice["text"]) for offset in offsets)
    return choice["text"], offsets, choice["logprobs"]["tokens"]


def test_names_of_tokens_are_no_text() -> None:
    text, offsets, tokens = answer("hello", return_tokens_as_token_ids=True)
    assert (text, offsets) == ("hello", [0, 1, 2, 3, 4])
    assert tokens[0] == "token_id:104"


def test_characters_of_several_tokens() -> None:
    text, offsets, _ = answer("aé🦩b")
    assert (text, offsets) == ("aé🦩b", [0, 1, 1, 2, 2, 2, 2, 3])
    # What nothing completes is one character: by the token that shows it, or by the end.
    assert answer([97, 0xC3, 98])[:2] == ("a\ufffdb", [0, 1, 2])
    assert answer([97, 0xF0, 0x9F, 98])[:2] == ("a\ufffdb", [0, 1, 1, 2])
    assert answer([97, 0xF0, 0x9F])[:2] == ("a\ufffd", [0, 1, 1])
    assert answer([0xC3, 0xC3, 0xA9, 98])[:2] == ("\ufffdéb", [0, 1, 1, 2])


def test_skipped_special_tokens_have_no_text() -> None:
    asked: dict[str, Any] = {"ignore_eos": True}
    assert answer([97, BOS, END, 98], **asked)[:2] == ("ab", [0, 1, 1, 1])
    assert answer([97, BOS, 98], skip_special_tokens=False, **asked)[:2] == ("a<s>b", [0, 1, 4])
    # A skipped token between the bytes of a character does not break it.
    assert answer([0xC3, BOS, 0xA9, 98], **asked)[:2] == ("éb", [0, 0, 0, 1])


@pytest.mark.parametrize("eos", [[], [END]])
def test_tokens_behind_the_end_begin_at_it(eos: list[int]) -> None:
    ids = [*b"abcdSTOPx", *eos]
    assert answer(ids, stop="STOP")[:2] == ("abcd", [0, 1, 2, 3, 4, 4, 4, 4])
    asked: dict[str, Any] = {"stop": "STOP", "include_stop_str_in_output": True}
    assert answer(ids, **asked)[:2] == ("abcdSTOP", [*range(8)])
    # What only began like a stop string has its place.
    assert answer([*b"aSTOx", *eos], stop="STOP")[0] == "aSTOx"
    assert answer([*b"aSTOx", *eos], stop="STOP")[1][:5] == [0, 1, 2, 3, 4]
    assert answer([*b"aSaSTOP"], stop="STOP")[:2] == ("aSa", [0, 1, 2, 3, 3, 3, 3])


def test_a_stream_waits_only_for_what_may_be_cut() -> None:
    app = app_of(TextEngine(says=lambda request, index: list(b"aSTOxSTOP")))
    body = {"prompt": "H", "max_tokens": 9, "logprobs": 0, "stop": "STOP", "stream": True}
    chunks = events(post(app, "/v1/completions", body))[:-1]
    found = [
        (part["text"], (part["logprobs"] or {"text_offset": []})["text_offset"])
        for chunk in chunks
        for part in chunk["choices"]
    ]
    # "S" begins where the text ends so far; "T" and "O" behind it may turn out to be no text.
    assert found == [("a", [0]), ("", [1]), ("STOx", [2, 3, 4]), ("", [5]), ("", [5, 5, 5])]


def test_echo_counts_the_prompts_text() -> None:
    assert answer("ab", echo=True)[:2] == ("Héab", [0, 0, 1, 1, 2, 3])  # <s> is not in the text
    sent = [BOS, *"Hé".encode()]
    assert answer("ab", echo=True, prompt=sent)[:2] == ("<s>Héab", [0, 3, 4, 4, 5, 6])
    written = "</s>é"
    assert answer("ab", echo=True, prompt=written)[:2] == ("</s>éab", [0, 0, 4, 4, 5, 6])
    cut = {"echo": True, "stop": "ST", "return_tokens_as_token_ids": True}
    assert answer("abST", **cut)[:2] == ("Héab", [0, 0, 1, 1, 2, 3, 4, 4])


def test_echo_alone_counts_the_prompt_only() -> None:
    app = app_of(TextEngine(says=lambda request, index: [97]))
    body = {"prompt": "Hé!", "max_tokens": 0, "logprobs": 0, "echo": True}
    choice = post(app, "/v1/completions", body).json()["choices"][0]
    assert (choice["text"], choice["logprobs"]["text_offset"]) == ("Hé!", [0, 0, 1, 1, 2])


def test_every_sequence_counts_for_itself() -> None:
    says = {0: list("é!".encode()), 1: list(b"abc")}
    app = app_of(TextEngine(says=lambda request, index: says[index]))
    body = {"prompt": ["x", "y"], "n": 2, "max_tokens": 3, "logprobs": 0}
    choices = post(app, "/v1/completions", body).json()["choices"]
    found = [choice["logprobs"]["text_offset"] for choice in choices]
    assert found == [[0, 0, 1], [0, 1, 2]] * 2


@given(
    ids=st.lists(st.sampled_from([*b"abS", *"é🦩".encode(), 0xFF, BOS]), min_size=1, max_size=12),
    stop=st.sampled_from([(), ("S",), ("ab",), ("aS<s>",), ("éS",), ("ba", "aab")]),
    skip=st.booleans(),
)
def test_offsets_of_any_output(ids: list[int], stop: tuple[str, ...], skip: bool) -> None:
    sampling = SamplingParams(stop=stop, skip_special_tokens=skip, max_tokens=len(ids))
    request = Request(request_id="r", prompt_token_ids=(BOS,), sampling=sampling)
    prompt = Prompt(token_ids=(BOS,), text="")
    whole, streamed = (OffsetWriter(prompt, sampling, TOKENIZER) for _ in range(2))
    sent = list(outputs(request, ids, 0))
    text = "".join(event.text for event in sent)
    sampled = [token_id for event in sent for token_id in event.token_ids]
    scored = whole.push(text, sampled, [None] * len(sampled), is_last=True)
    assert scored.token_ids == sampled
    parts = [
        streamed.push(event.text, event.token_ids, [None], is_last=event.finish is not None)
        for event in sent
    ]
    for name in ("token_ids", "entries", "offsets"):
        assert [v for part in parts for v in getattr(part, name)] == getattr(scored, name)
    for i, offset in enumerate(scored.offsets):
        # Half a character is none: it begins where the token that ends it begins.
        before = TOKENIZER.decode(sampled[:i], skip_special_tokens=skip)
        whole_characters = len(before.rstrip("\ufffd"))
        assert min(whole_characters, len(text)) <= offset <= min(len(before), len(text))


def test_a_prompts_text_may_begin_like_an_added_token() -> None:
    ids = (BOS, *b"hi")
    assert prompt_offsets(Prompt(token_ids=ids, text="hi"), "hi", TOKENIZER) == [0, 0, 1]
    assert prompt_offsets(Prompt(token_ids=ids, text=None), "<s>hi", TOKENIZER) == [0, 3, 4]
