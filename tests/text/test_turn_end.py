"""What ends the assistant's turn is what the template writes behind it, in every kind of file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from flaxen.text.tokenizer import Tokenizer
from flaxen.text.turn_end import find_turn_end

Save = Callable[..., Path]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>", "<over>", "<over>>")


def backend_with(
    special: tuple[str, ...] = SPECIAL, plain: tuple[str, ...] = ()
) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0}, merges=[]))
    backend.add_special_tokens(list(special))
    backend.add_tokens(list(plain))
    return backend


def turn(behind: str) -> str:
    """A template of turns that end so."""
    return "{% for m in messages %}<{{ m.role }}>{{ m.content }}" + behind + "{% endfor %}"


@pytest.mark.parametrize(
    ("template", "token"),
    [
        (CHATML, "<|im_end|>"),
        (turn("<over>"), "<over>"),  # a name that nobody else has
        (turn("<over>>\n"), "<over>>"),  # the longest at a place
        (turn("\n <|end|>\n<|endoftext|>"), "<|end|>"),  # the first of several
        (turn("{{ eos_token }}"), "<|endoftext|>"),
        (turn("{{ pad_token }}"), "<over>"),
        (turn("\n\nUser: "), None),
        (turn(""), None),
        # Both are only ever rendered in other places, or not for this message.
        ("<|im_end|>" + turn(""), None),
        (turn("{% if m.role == 'user' %}<|im_end|>{% endif %}"), None),
    ],
)
def test_the_first_special_token_behind_an_answer(template: str, token: str | None) -> None:
    backend = backend_with()
    variables = {"eos_token": "<|endoftext|>", "pad_token": "<over>"}
    expected = None if token is None else backend.token_to_id(token)
    assert find_turn_end(backend, template, variables) == expected


def test_other_added_tokens_end_no_turn() -> None:
    backend = backend_with(special=(" ", "\t"), plain=("\n", "</tool>"))
    assert find_turn_end(backend, turn("\n</tool> \t"), {}) is None


def test_a_well_known_token_counts_though_it_is_not_special() -> None:
    backend = backend_with(special=("<|endoftext|>",), plain=("<|im_end|>",))
    assert find_turn_end(backend, CHATML, {}) == backend.token_to_id("<|im_end|>")


@pytest.mark.parametrize(
    "breaks",
    [
        "{{ raise_exception('no answers') }}",
        "{{ messages[7].content.missing() }}",
        "{% if %}",
    ],
)
def test_a_template_that_refuses_the_chat_is_searched_for_well_known_names(breaks: str) -> None:
    backend = backend_with()
    assert find_turn_end(backend, breaks + CHATML, {}) == backend.token_to_id("<|im_end|>")
    assert find_turn_end(backend, breaks + turn("<over>"), {}) is None


def test_a_directory_whose_files_name_another_eos(save_tokenizer: Save) -> None:
    path = save_tokenizer(
        tokenizer_config={"eos_token": "<eos>"}, chat_template=turn("<turn>{{ '\n' }}")
    )
    tokenizer = Tokenizer.from_directory(path)
    assert tokenizer.eos_token_ids == (258, 259)
    assert tokenizer.eos_token == "<eos>"  # a text still ends with its own
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [259, 257]}))
    assert Tokenizer.from_directory(path).eos_token_ids == (258, 259, 257)


def test_a_gguf_file_that_names_no_end_of_turn(byte_metadata: dict[str, Any]) -> None:
    metadata = {**byte_metadata, "tokenizer.chat_template": turn("<turn>")}
    assert Tokenizer.from_gguf(metadata).eos_token_ids == (258, 259)
    named = {**metadata, "tokenizer.ggml.eot_token_id": 256}
    assert Tokenizer.from_gguf(named).eos_token_ids == (258, 256)


def test_another_template_brings_its_own_end(save_tokenizer: Save) -> None:
    path = save_tokenizer(
        tokenizer_config={
            "eos_token": "<eos>",
            "chat_template": [{"name": "rag", "template": turn("<turn>")}],
        }
    )
    tokenizer = Tokenizer.from_directory(path)
    assert (tokenizer.chat_template, tokenizer.eos_token_ids) == (None, (258,))
    for template in ("rag", turn("<turn>")):
        other = tokenizer.with_chat_template(template)
        assert (other.chat_template, other.eos_token_ids) == (turn("<turn>"), (258, 259))
        assert other.encode("he<turn>") == tokenizer.encode("he<turn>")
    assert tokenizer.eos_token_ids == (258,)
