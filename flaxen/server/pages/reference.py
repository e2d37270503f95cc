"""Makes HTML of docs/server.md, which is packaged beside this file (decision 0249).

Deliberately does not know the server.
"""

from __future__ import annotations

import functools
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_SOURCE = Path(__file__).with_name("server.md")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The reference as HTML, and its sections as pairs (id, heading)."""

    html: str
    sections: tuple[tuple[str, str], ...]


@functools.cache
def read_reference() -> Reference:
    """Reads the reference; once for a process, because the file does not change."""
    return make_reference(_SOURCE.read_text(encoding="utf-8"))


def make_reference(markdown: str) -> Reference:
    """Makes HTML of Markdown. Links to other files become plain text: they are not served."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    sections = []
    for token, after in itertools.pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            name = re.sub(r"[^a-z0-9]+", "-", after.content.lower()).strip("-")
            token.attrSet("id", name)
            sections.append((name, after.content))
        for child in token.children or ():
            _unlink(child)
    html = parser.renderer.render(tokens, parser.options, {})
    return Reference(html=html, sections=tuple(sections))


def _unlink(token: Token) -> None:
    """Takes the address from a link to another file: browsers show such a link as plain text."""
    if token.type == "link_open" and not str(token.attrs["href"]).startswith(("#", "https://")):
        del token.attrs["href"]
