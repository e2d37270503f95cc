"""Reads a chat template that replaces the model's own: a file, Jinja source, or a name.

Deliberately does not know: argv, how a template is run.
"""

from __future__ import annotations

import os
from pathlib import Path

from flaxen.text.chat import ChatTemplate
from flaxen.text.tokenizer import Tokenizer


def read_template(given: str) -> str:
    """Returns the Jinja source, checked by compiling it once; a template's name is returned as it
    is.

    Args:
      given: Jinja source, recognised by {{ or {%; else a file of it, or the name of one of the
          model's templates.

    Raises:
      ValueError: the file is not UTF-8 or is empty, or the template does not compile.
      OSError: the file can't be read.
    """
    source = given
    if not _is_jinja(given):
        path = Path(os.path.expanduser(given))
        if not path.is_file():
            return given
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"the chat template {path} is not valid UTF-8: {error}") from None
        if not source.strip():
            raise ValueError(f"the chat template {path} is empty: write Jinja into it")
    ChatTemplate(source, bos_token=None, eos_token=None).close()
    return source


def with_template(tokenizer: Tokenizer, given: str | None) -> Tokenizer:
    """Returns the tokenizer with the given template for all conversations; None changes nothing.

    Raises:
      ValueError: as in read_template; or `given` is neither a file nor one of the model's
          templates.
      OSError: the file can't be read.
    """
    if given is None:
        return tokenizer
    source = read_template(given)
    if source == given and not _is_jinja(given) and given not in tokenizer.named_templates:
        own = ", ".join(sorted(tokenizer.named_templates)) or "none with names"
        raise ValueError(
            f"the chat template {given!r} is no file, has no Jinja in it ({{{{ or {{%), and is no "
            f"name of the model's own templates ({own}): give one of the three"
        )
    return tokenizer.with_chat_template(source)


def _is_jinja(given: str) -> bool:
    return "{{" in given or "{%" in given
