"""What somebody does with the page, and sees of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.server.pages.browser import Browser
from tests.server.pages.served import served


@contextlib.contextmanager
def page_of(tab: Browser, app: Any, part: str = "") -> Iterator[None]:
    """A server's page, and the server until the end."""
    with served(app) as url:
        open_page(tab, f"{url}{part}")
        yield
        tab.open("about:blank")  # a page asks on while its server ends


def open_page(tab: Browser, url: str) -> None:
    """Opens the page, and waits until it knows the models."""
    tab.open("about:blank")  # a change of the #name alone would load nothing
    tab.open(url)
    tab.wait("document.querySelector('#model').options.length")


def say(tab: Browser, text: str) -> None:
    tab.run("document.querySelector('#prompt').focus()")
    tab.type(text)
    tab.press("Enter")


def set_field(tab: Browser, name: str, value: str) -> None:
    field = f"document.querySelector('#{name}')"
    tab.run(f"{field}.value = {json.dumps(value)}")
    tab.run(f"{field}.dispatchEvent(new Event('change', {{bubbles: true}}))")


def texts(tab: Browser, of: str) -> Any:
    """What elements show."""
    return tab.run(f"[...document.querySelectorAll({json.dumps(of)})].map((e) => e.innerText)")


def answered(tab: Browser, count: int = 1) -> None:
    """Waits until so many answers are whole."""
    tab.wait(
        f"document.querySelectorAll('article.assistant').length === {count} && "
        "document.querySelector('#log').getAttribute('aria-busy') === 'false'"
    )


def fits(tab: Browser) -> bool:
    """Whether a narrow window shows the page without scrolling to the side."""
    tab.resize(320, 640, dark=True)
    return bool(tab.run("document.documentElement.scrollWidth <= 320"))
