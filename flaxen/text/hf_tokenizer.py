"""Reads a tokenizer from a Hugging Face model's directory.

tokenizer.json is the tokenizer. tokenizer_config.json and special_tokens_map.json name its BOS and
EOS; generation_config.json and config.json may add ids that end a turn; the chat template is
chat_template.jinja or a key of tokenizer_config.json.

Deliberately does not know: Python code, pickles or SentencePiece files that came with the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from flaxen.text.parts import TokenizerParts

_CONVERT = (
    "make tokenizer.json with transformers: "
    "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
)


def read_directory(path: Path) -> TokenizerParts:
    """The parts of the tokenizer in a directory.

    Raises:
      FileNotFoundError: there is no directory or no tokenizer.json.
      ValueError: a file is corrupt, or names a token that the tokenizer doesn't have.
    """
    backend = _read_backend(path)
    config = _read_json(path / "tokenizer_config.json")
    special = _read_json(path / "special_tokens_map.json")
    ids = {}
    for name in ("bos_token", "eos_token"):
        token = _token_text(config.get(name)) or _token_text(special.get(name))
        ids[name] = None if token is None else backend.token_to_id(token)
        if token is not None and ids[name] is None:
            raise ValueError(
                f"the {name} {token!r} of {path} is not in its tokenizer.json: the files belong to "
                "different models, or the token was added later; save the tokenizer again"
            )
    eos = [] if ids["eos_token"] is None else [ids["eos_token"]]
    for name in ("generation_config.json", "config.json"):
        eos += _eos_ids(path / name)
    return TokenizerParts(
        backend=backend,
        bos_token_id=ids["bos_token"],
        eos_token_ids=tuple(dict.fromkeys(eos)),
        chat_template=_chat_template(path, config),
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
    """The object in a JSON file, an empty one where there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_bytes())
    except ValueError as exc:
        raise ValueError(f"{file} is not valid JSON: {exc}; fetch the file again") from exc
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(value).__name__}")
    return value


def _token_text(value: object) -> str | None:
    """A token is named by its text or by an object with its text as "content"."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _eos_ids(file: Path) -> list[int]:
    """`eos_token_id` of a config: an id, a list of ids, null or absent."""
    value = _read_json(file).get("eos_token_id")
    ids = []
    for token_id in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
            raise ValueError(f"eos_token_id in {file} must be a token id or a list, got {value!r}")
        ids.append(token_id)
    return ids


def _chat_template(path: Path, config: Mapping[str, object]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, each {"name": ..., "template": ...}
        named = {entry["name"]: entry["template"] for entry in template if isinstance(entry, dict)}
        if "default" not in named:
            raise ValueError(
                f"{path / 'tokenizer_config.json'} has the chat templates {sorted(named)} and none "
                'named "default": put the one to use into chat_template.jinja beside it'
            )
        template = named["default"]
    if template is not None and not isinstance(template, str):
        raise ValueError(
            f"chat_template in {path / 'tokenizer_config.json'} must be text or a list, "
            f"got a {type(template).__name__}"
        )
    return template
