"""GET / and GET /docs: pages for people, which need no key and say nothing that a key protects.

A browser can send no key, so a page that asked for one could never be seen. Deliberately does not
know how requests are answered.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from flaxen import __version__
from flaxen.server.context import Context
from flaxen.server.pages import snippets
from flaxen.server.pages.reference import read_reference

# What a page may load: nothing but the style inside it.
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """What the first page says of a model."""

    name: str
    max_model_len: int  # tokens
    chats: bool  # whether it has a chat template


async def home(context: Context, http: Request) -> Response:
    """Answers GET /: what is served, and how to call it from here."""
    model = ShownModel(
        name=context.model_names[0],
        max_model_len=context.engine.info.max_model_len,
        chats=context.chat_template is not None,
    )
    return home_page(http, [model], has_key=bool(context.config.api_keys))


def home_page(http: Request, models: Sequence[ShownModel], *, has_key: bool) -> Response:
    """The page of what is served.

    Args:
      http: the request, which says how the client reaches the server.
      models: at least one; the calls on the page are for the first.
      has_key: whether requests need a key. The page, which needs none, then names no model.
    """
    first = models[0]
    target = snippets.Target(
        url=_url(http),
        model="MODEL" if has_key else first.name,
        chats=first.chats,
        has_key=has_key,
    )
    return _page(
        "home.html",
        root=http.scope.get("root_path", ""),
        title="flaxen" if has_key or len(models) > 1 else first.name,
        models=() if has_key else models,
        version=__version__,
        url=target.url,
        curl=snippets.curl(target),
        python=snippets.python(target),
    )


async def reference(context: Context, http: Request) -> Response:
    """Answers GET /docs for a server of one model."""
    return await reference_page(http)


async def reference_page(http: Request) -> Response:
    """Answers GET /docs: the routes of this server, and the reference of them all."""
    routes = [
        (method, route.path.replace(":path", ""))
        for route in http.app.routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    made = read_reference()
    return _page(
        "reference.html",
        root=http.scope.get("root_path", ""),
        title="flaxen: the server's reference",
        routes=tuple(dict.fromkeys(routes)),
        sections=made.sections,
        reference=made.html,
    )


def _url(http: Request) -> str:
    """The server's URL as the client knows it; a host that is not one is left out."""
    host = http.headers.get("host", "")
    root = http.scope.get("root_path", "")
    return f"{http.url.scheme}://{host if _HOST.fullmatch(host) else 'HOST:PORT'}{root}"


@functools.cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(loader=loader, autoescape=True)


def _page(name: str, **values: Any) -> Response:
    return HTMLResponse(_templates().get_template(name).render(values), headers=_HEADERS)
