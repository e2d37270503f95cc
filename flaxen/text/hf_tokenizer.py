"""Reads a tokenizer from a Hugging Face model's directory.

tokenizer.json is the tokenizer. tokenizer_config.json and special_tokens_map.json name its special
tokens; generation_config.json, config.json and the chat template add ids that end a turn.

Deliberately does not know: Python code, pickles or SentencePiece files that came with the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from flaxen.text.hf_templates import read_templates
from flaxen.text.parts import DEFAULT_TEMPLATE, TokenizerParts
from flaxen.text.turn_end import find_turn_end

_CONVERT = (
    "make tokenizer.json with transformers: "
    "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
)


def read_directory(path: Path) -> TokenizerParts:
    """The parts of the tokenizer in a directory.

    Raises:
      FileNotFoundError: the directory or its tokenizer.json is missing.
      ValueError: a file is corrupt, or names a token that the tokenizer doesn't have.
    """
    backend = _read_backend(path)
    config = _read_json(path / "tokenizer_config.json")
    special = _special_tokens(config, _read_json(path / "special_tokens_map.json"))
    ids = {}
    for name in ("bos_token", "eos_token"):
        token = special.get(name)
        ids[name] = backend.token_to_id(token) if isinstance(token, str) else None
        if token is not None and ids[name] is None:
            raise ValueError(
                f"the {name} {token!r} of {path} is not in its tokenizer.json: the files belong to "
                "different models, or the token was added later; save the tokenizer again"
            )
    eos = [] if ids["eos_token"] is None else [ids["eos_token"]]
    for name in ("generation_config.json", "config.json"):
        eos += _eos_ids(path / name)
    templates = read_templates(path, config)
    default = templates.pop(DEFAULT_TEMPLATE, None)
    turn_end = None if default is None else find_turn_end(backend, default, special)
    if turn_end is not None:
        eos.append(turn_end)
    return TokenizerParts(
        backend=backend,
        bos_token_id=ids["bos_token"],
        eos_token_ids=tuple(dict.fromkeys(eos)),
        chat_template=default,
        named_templates=templates,
        special_tokens=special,
    )


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    file = path / "tokenizer.json"
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a directory: give a model's directory")
    if not file.is_file():
        if (path / "tokenizer.model").is_file():
            raise FileNotFoundError(
                f"{path} has a tokenizer.model but no tokenizer.json: SentencePiece files are not "
                f"read here; {_CONVERT}"
            )
        raise FileNotFoundError(f"{path} has no tokenizer.json; {_CONVERT}")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as exc:  # the library raises nothing narrower
        raise ValueError(
            f"{file} can't be read as a tokenizer: {exc}. The file is damaged, or newer than the "
            f"installed tokenizers {tokenizers.__version__}: fetch it again, or update tokenizers"
        ) from exc


def _read_json(file: Path) -> Mapping[str, object]:
    """Reads the object in a JSON file; an empty one if there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as exc:
        raise ValueError(f"{file} is not valid JSON: {exc}; fetch the file again") from exc
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(value).__name__}")
    return value


def _special_tokens(
    config: Mapping[str, object], legacy: Mapping[str, object]
) -> dict[str, str | list[str]]:
    """The special tokens by the names that chat templates use, as in transformers.

    The names are all keys that end with `_token`, and the keys of `extra_special_tokens` if that is
    an object. If it is a list, or is called additional_special_tokens, the whole list has that
    name.
    """
    found: dict[str, str | list[str]] = {}
    for fields in (legacy, config):  # tokenizer_config.json comes last and wins
        extra = fields.get("extra_special_tokens") or fields.get("additional_special_tokens")
        named = extra if isinstance(extra, dict) else {}
        for name, value in {**named, **fields}.items():
            text = _token_text(value)
            if text is not None and (name in named or name.endswith("_token")):
                found[name] = text
        if isinstance(extra, list):
            texts = (_token_text(value) for value in extra)
            found["additional_special_tokens"] = [text for text in texts if text is not None]
    return found


def _token_text(value: object) -> str | None:
    """Returns a token's text, which is a string or the "content" of an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _eos_ids(file: Path) -> list[int]:
    """Reads `eos_token_id` of a config, which is an id, a list of ids, null or absent."""
    value = _read_json(file).get("eos_token_id")
    ids = []
    for token_id in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise ValueError(f"eos_token_id in {file} must be a token id or a list, got {value!r}")
        ids.append(token_id)
    return ids
