"""Reads the chat templates of a Hugging Face directory, from the places that transformers uses.

chat_template.jinja is the default and additional_chat_templates/NAME.jinja are the others. Without
such files the templates are in the key chat_template of tokenizer_config.json, as one text or as a
list of named texts. Deliberately does not know Jinja.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flaxen.text.parts import DEFAULT_TEMPLATE

TEMPLATE_FILE, TEMPLATES_DIRECTORY = "chat_template.jinja", "additional_chat_templates"


def read_templates(path: Path, config: Mapping[str, object]) -> dict[str, str]:
    """Maps names to Jinja sources. The one named "default" is used unless another is asked for.

    Args:
      path: the directory.
      config: the contents of its tokenizer_config.json.

    Raises:
      ValueError: chat_template is neither text nor a list of named texts, or a file is not UTF-8.
    """
    files = sorted((path / TEMPLATES_DIRECTORY).glob("*.jinja"))
    templates = {file.stem: _read(file) for file in files if file.is_file()}
    if (path / TEMPLATE_FILE).is_file():
        templates[DEFAULT_TEMPLATE] = _read(path / TEMPLATE_FILE)
    if templates:
        return templates
    value = config.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT_TEMPLATE: value}
    where = f"chat_template in {path / 'tokenizer_config.json'}"
    if not isinstance(value, list):
        raise ValueError(f"{where} must be text or a list, got a {type(value).__name__}")
    for entry in value:
        fields = entry if isinstance(entry, dict) else {}
        if not all(isinstance(fields.get(key), str) for key in ("name", "template")):
            raise ValueError(
                f'{where} must list objects like {{"name": "default", "template": "..."}}, got '
                f"{str(entry)[:200]}"
            )
    return {entry["name"]: entry["template"] for entry in value}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 ({error}): fetch the file again") from None
