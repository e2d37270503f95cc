"""Every relative link of the README and the documents, the decisions included, leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
_BLOCK = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<text>.+)$", re.MULTILINE)


def find_links(page: str) -> Iterator[str]:
    """Yields the targets of a page's links that are neither in code nor on other hosts."""
    for found in _LINK.finditer(_CODE.sub("``", _BLOCK.sub("", page))):
        if "://" not in found["target"] and not found["target"].startswith("mailto:"):
            yield found["target"]


def find_anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (found["text"] for found in _HEADING.finditer(_BLOCK.sub("", page)))
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


def dead_links(path: Path) -> list[str]:
    page = path.read_text()
    dead = []
    for target in find_links(page):
        name, _, anchor = target.partition("#")
        other = path.parent / name if name else path
        missing = not other.exists()
        if missing or (anchor and anchor not in find_anchors(other.read_text())):
            dead.append(target)
    return dead


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    assert not dead_links(path)


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("## The start, and `the log`\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#the-start-and-the-log) [c](#here) [d](https://x.org/y)\n"
        "`[e](code.md)`\n```python\nf[g](h)\n```\n[i](gone.md) [j](other.md#gone) [k](#gone)\n"
    )
    assert dead_links(page) == ["gone.md", "other.md#gone", "#gone"]
