"""A chat template in place of the model's own: a file, Jinja, or a name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.given_template import read_template, with_template
from flaxen.text.tokenizer import Tokenizer

Save = Callable[..., Path]
USER = [{"role": "user", "content": "Hi"}]
JINJA = "{{ messages[0].content }}!"


@pytest.fixture
def tokenizer(save_tokenizer: Save) -> Tokenizer:
    named = [
        {"name": "default", "template": "own"},
        {"name": "rag", "template": "rag {{ messages[0].content }}"},
        {"name": "tool_use", "template": "tools"},
    ]
    return Tokenizer.from_directory(save_tokenizer(tokenizer_config={"chat_template": named}))


def rendered(tokenizer: Tokenizer) -> list[str]:
    with closing(ChatTemplate.of(tokenizer)) as template:
        return [template.render(USER), template.render(USER, tools=[{"name": "f"}])]


def test_a_file_jinja_and_a_name_take_the_place_of_all_templates(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert rendered(tokenizer) == rendered(with_template(tokenizer, None)) == ["own", "tools"]
    file = tmp_path / "chat.jinja"
    file.write_text(JINJA)
    for given in (str(file), JINJA):
        assert read_template(given) == JINJA
        assert rendered(with_template(tokenizer, given)) == ["Hi!", "Hi!"]
    assert rendered(with_template(tokenizer, "rag")) == ["rag Hi", "rag Hi"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{% if %}", "not valid Jinja"),
        (b"\xff", r"chat template \S*chat.jinja is not valid UTF-8"),
        (b" \n", r"chat template \S*chat.jinja is empty: write Jinja into it"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "chat.jinja"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_template(str(file))


def test_what_is_wrong_with_what_is_given(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        ValueError,
        match=r"template 'chat.jinja' is no file, has no Jinja in it \(\{\{ or \{%\), and is no "
        r"name of the model's own templates \(rag, tool_use\): give one of the three",
    ):
        with_template(tokenizer, "chat.jinja")
    with pytest.raises(ValueError, match="not valid Jinja"):
        with_template(tokenizer, "{% if %}")
    with pytest.raises(ValueError, match=r"'~nobody-here/chat.jinja' is no file"):
        with_template(tokenizer, "~nobody-here/chat.jinja")
