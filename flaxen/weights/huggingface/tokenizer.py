"""Writes a model's tokenizer as files of a Hugging Face directory.

Deliberately does not know models or tokenization.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.processors import TemplateProcessing

from flaxen.hub.weight_files import read_json
from flaxen.text.gguf_tokenizer import read_gguf_tokenizer
from flaxen.text.hf_templates import TEMPLATES_DIRECTORY
from flaxen.text.hf_tokenizer import read_directory
from flaxen.text.parts import DEFAULT_TEMPLATE, TokenizerParts
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.gguf.reader import read_gguf

_COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
_GENERATION = "generation_config.json"


def write_tokenizer(directory: Path, source: Path | Tokenizer) -> dict[str, Any]:
    """Writes the tokenizer of a model to its directory.

    Args:
      directory: the target directory.
      source: the model's directory, whose files are copied; or its .gguf file or a tokenizer, from
          which tokenizer.json, tokenizer_config.json and generation_config.json are made.

    Returns:
      The fields for config.json: bos_token_id and eos_token_id.

    Raises:
      FileNotFoundError: the directory has no tokenizer.json.
      ValueError: a file is damaged or not supported.
    """
    if isinstance(source, Tokenizer):
        parts = source.parts
        _write_parts(directory, parts)
    elif source.is_dir():
        parts = read_directory(source)
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, directory / name)
        if (source / TEMPLATES_DIRECTORY).is_dir():
            (directory / TEMPLATES_DIRECTORY).mkdir()
            for file in sorted((source / TEMPLATES_DIRECTORY).glob("*.jinja")):
                shutil.copyfile(file, directory / TEMPLATES_DIRECTORY / file.name)
        if (source / _GENERATION).is_file():
            _copy_generation(source / _GENERATION, directory / _GENERATION, parts)
    else:
        parts = read_gguf_tokenizer(read_gguf(source).metadata)
        _write_parts(directory, parts)
    return _ids(parts)


def _copy_generation(source: Path, target: Path, parts: TokenizerParts) -> None:
    """Copies generation_config.json, with the end-of-turn ids added: transformers and vLLM read
    this file first.
    """
    fields = read_json(source)
    ends = fields.get("eos_token_id")
    if {*parts.eos_token_ids} <= {*(ends if isinstance(ends, list) else [ends])}:
        shutil.copyfile(source, target)
    else:
        _write(target, {**fields, "eos_token_id": _ids(parts)["eos_token_id"]})


def _ids(parts: TokenizerParts) -> dict[str, Any]:
    eos = list(parts.eos_token_ids)
    return {
        "bos_token_id": parts.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
    }


def _write_parts(directory: Path, parts: TokenizerParts) -> None:
    # A copy, since the tokenizer may be in use.
    backend = tokenizers.Tokenizer.from_str(parts.backend.to_str())
    around = (*parts.prefix_ids, *parts.suffix_ids)
    if around:  # the file tells the library to add them
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
        **parts.special_tokens,
    }
    for name, token_id in (
        ("bos_token", parts.bos_token_id),
        ("eos_token", parts.eos_token_ids[0] if parts.eos_token_ids else None),
    ):
        if token_id is not None:
            config[name] = backend.id_to_token(token_id)
    templates = dict(parts.named_templates)
    if parts.chat_template is not None:
        templates = {DEFAULT_TEMPLATE: parts.chat_template, **templates}
    if list(templates) == [DEFAULT_TEMPLATE]:
        config["chat_template"] = parts.chat_template
    elif templates:
        config["chat_template"] = [
            {"name": name, "template": source} for name, source in templates.items()
        ]
    _write(directory / "tokenizer_config.json", config)
    _write(directory / _GENERATION, _ids(parts))


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
