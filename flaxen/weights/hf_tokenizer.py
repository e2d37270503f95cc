"""A model's tokenizer as the files of a Hugging Face directory, whatever it came from.

Deliberately does not know models, nor how a tokenizer works.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing

from flaxen.text.gguf_tokenizer import read_gguf as read_tokenizer
from flaxen.text.hf_tokenizer import read_directory
from flaxen.text.parts import TokenizerParts
from flaxen.weights.gguf import read_gguf

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "generation_config.json",
)  # fmt: skip


def write_tokenizer(directory: Path, source: Path) -> dict[str, Any]:
    """Writes the tokenizer of a model beside its weights.

    Args:
      directory: where to.
      source: the model's directory, whose files are copied, or its .gguf file, of which
        tokenizer.json, tokenizer_config.json and generation_config.json are made.

    Returns:
      What config.json should say of it: bos_token_id and eos_token_id.

    Raises:
      FileNotFoundError: the directory has no tokenizer.json.
      ValueError: a file is damaged, or of a kind that is not supported.
    """
    if source.is_dir():
        parts = read_directory(source)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
    else:
        parts = read_tokenizer(read_gguf(source).metadata)
        _write_parts(directory, parts)
    return _ids(parts)


def _ids(parts: TokenizerParts) -> dict[str, Any]:
    eos = list(parts.eos_token_ids)
    return {
        "bos_token_id": parts.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
    }


def _write_parts(directory: Path, parts: TokenizerParts) -> None:
    backend = parts.backend
    around = (*parts.prefix_ids, *parts.suffix_ids)
    if around:  # the library adds them where it is told so in the file
        before, after = (
            [backend.id_to_token(i) for i in ids] for ids in (parts.prefix_ids, parts.suffix_ids)
        )
        backend.post_processor = TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *before, "$B:1", *after],
            special_tokens=[(backend.id_to_token(i), i) for i in dict.fromkeys(around)],
        )
    backend.save(str(directory / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    for name, token_id in (
        ("bos_token", parts.bos_token_id),
        ("eos_token", parts.eos_token_ids[0] if parts.eos_token_ids else None),
    ):
        if token_id is not None:
            config[name] = backend.id_to_token(token_id)
    if parts.chat_template is not None:
        config["chat_template"] = parts.chat_template
    _write(directory / "tokenizer_config.json", config)
    _write(directory / "generation_config.json", _ids(parts))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
