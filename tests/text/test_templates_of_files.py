"""Which chat templates a model's files have, and what special tokens templates are given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer
from tests.extras import extra

Save = Callable[..., Path]
USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "image")
SHOWS = "".join(f"[{{{{ {name}_token }}}}]" for name in NAMES) + "{{ additional_special_tokens }}"


def render(tokenizer: Tokenizer, **options: Any) -> str:
    with closing(ChatTemplate.of(tokenizer)) as template:
        return template.render(USER, **options)


def named(**templates: str) -> dict[str, Any]:
    """A tokenizer_config.json with a list of templates."""
    listed = [{"name": name, "template": source} for name, source in templates.items()]
    return {"chat_template": listed}


@pytest.fixture
def additional(save_tokenizer: Save) -> Path:
    """A directory with templates in files of their own."""
    path = save_tokenizer(chat_template="file", tokenizer_config={"chat_template": "config"})
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    (path / "additional_chat_templates" / "notes.txt").write_text("none")
    return path


def test_a_directory_gives_templates_all_its_special_tokens(save_tokenizer: Save) -> None:
    config = {
        "bos_token": "<bos>", "eos_token": {"content": "<eos>"}, "unk_token": "<unk>",
        "sep_token": "<sep>", "pad_token": "<pad>", "cls_token": None, "add_bos_token": True,
        "extra_special_tokens": {"image_token": "<image>"},
    }  # fmt: skip
    path = save_tokenizer(
        tokenizer_config=config,
        special_tokens_map={"pad_token": "<old>", "mask_token": {"content": "<mask>"}},
        chat_template=SHOWS + "{{ add_bos_token }}",
    )
    shown = "[<bos>][<eos>][<unk>][<sep>][<pad>][][<mask>][<image>]"
    assert render(Tokenizer.from_directory(path)) == shown


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_a_list_of_more_special_tokens(save_tokenizer: Save, key: str) -> None:
    listed = ["<a>", {"content": "<b>"}]
    path = save_tokenizer(tokenizer_config={key: listed}, chat_template=SHOWS)
    assert render(Tokenizer.from_directory(path)) == "[]" * len(NAMES) + "['<a>', '<b>']"


def test_a_gguf_file_gives_templates_all_its_special_tokens(byte_metadata: dict[str, Any]) -> None:
    keys = ("bos", "eos", "unknown", "seperator", "padding", "cls", "mask")
    metadata = {
        **byte_metadata,
        **{f"tokenizer.ggml.{key}_token_id": 250 + i for i, key in enumerate(keys)},
        "tokenizer.chat_template": SHOWS,
    }
    tokens = byte_metadata["tokenizer.ggml.tokens"]
    assert render(Tokenizer.from_gguf(metadata)) == (
        "".join(f"[{token}]" for token in tokens[250:257]) + "[]"
    )


def test_the_variables_are_those_of_transformers(save_tokenizer: Save) -> None:
    transformers: Any = extra("transformers")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>",
        "pad_token": "<turn>", "extra_special_tokens": {"image_token": "<turn>"},
        "audio_token": "<eos>",
    }  # fmt: skip
    template = SHOWS + "{{ audio_token }}"
    path = save_tokenizer(tokenizer_config=config, chat_template=template)
    theirs = transformers.AutoTokenizer.from_pretrained(path).apply_chat_template(
        USER, tokenize=False, add_generation_prompt=True
    )
    assert render(Tokenizer.from_directory(path)) == theirs


def test_files_count_before_the_configuration(additional: Path) -> None:
    tokenizer = Tokenizer.from_directory(additional)
    assert tokenizer.chat_template == "file"
    assert tokenizer.named_templates == {"tool_use": "tools"}
    assert render(tokenizer) == "file"
    assert render(tokenizer, tools=TOOLS) == "tools"


def test_without_a_default_only_messages_are_refused(additional: Path) -> None:
    (additional / "chat_template.jinja").unlink()
    tokenizer = Tokenizer.from_directory(additional)
    assert tokenizer.chat_template is None
    assert tokenizer.encode("he") == [256]
    message = "has the chat templates tool_use and none named default, .*: put the one to use into"
    with pytest.raises(ValueError, match=message):
        render(tokenizer)
    assert render(tokenizer, tools=TOOLS) == "tools"


def test_named_templates_of_the_configuration(save_tokenizer: Save) -> None:
    path = save_tokenizer(tokenizer_config=named(rag="r", default="d", tool_use="t"))
    tokenizer = Tokenizer.from_directory(path)
    assert (render(tokenizer), render(tokenizer, tools=TOOLS)) == ("d", "t")
    path = save_tokenizer(tokenizer_config=named(rag="r"))
    with pytest.raises(ValueError, match="has the chat templates rag and none named default"):
        render(Tokenizer.from_directory(path))


def test_named_templates_of_a_gguf_file(byte_metadata: dict[str, Any]) -> None:
    metadata = {
        **byte_metadata,
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "t",
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    assert (tokenizer.chat_template, tokenizer.named_templates) == (None, {"tool_use": "t"})
    whole = Tokenizer.from_gguf({**metadata, "tokenizer.chat_template": "d"})
    assert (render(whole), render(whole, tools=TOOLS)) == ("d", "t")


def test_a_template_that_is_not_utf8_is_refused(additional: Path) -> None:
    (additional / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8 .*fetch the file ag"):
        Tokenizer.from_directory(additional)
