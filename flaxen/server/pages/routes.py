"""GET /, /docs and /page/{name}: pages for people, and the files that they load.

They need no key, as a browser can't send one with an address, and say nothing that a key protects.
Deliberately does not know how requests are answered.
"""

from __future__ import annotations

import functools
import hashlib
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
from flaxen.server.errors import not_found
from flaxen.server.pages import snippets
from flaxen.server.pages.reference import read_reference

# What a page may load and ask: files and routes of this server alone. No text becomes HTML.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_JOBS = "/v1/fine_tuning/jobs"
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """What the first page says of a model."""

    name: str
    max_model_len: int  # tokens
    chats: bool  # whether it has a chat template
    pools: str = ""  # as in snippets.Target


async def home(context: Context, http: Request) -> Response:
    """Answers GET /: what is served, and how to call it from here."""
    pooling = context.engine.info.pooling
    model = ShownModel(
        name=context.model_names[0],
        max_model_len=context.engine.info.max_model_len,
        chats=context.chat_template is not None,
        pools="" if pooling is None else "score" if pooling.scores_pairs else pooling.task,
    )
    return home_page(http, [model], has_key=bool(context.config.api_keys))


def home_page(
    http: Request, models: Sequence[ShownModel], *, has_key: bool, example: str = "MODEL"
) -> Response:
    """The page to chat, to see what is served and how it does, and how to call it.

    Args:
      http: the request, which says how the client reaches the server.
      models: those of this process; the calls on the page are for the first.
      has_key: whether requests need a key. The page, which needs none, then names no model.
      example: the name that the calls are for where this process has no models.
    """
    chats = not models or models[0].chats or len(models) > 1
    target = snippets.Target(
        url=_url(http),
        model="MODEL" if has_key else models[0].name if models else example,
        chats=models[0].chats if models else True,
        has_key=has_key,
        pools=models[0].pools if len(models) == 1 else "",
    )
    has_jobs = any(isinstance(each, Route) and each.path == _JOBS for each in http.app.routes)
    return _page(
        "home.html",
        root=http.scope.get("root_path", ""),
        title="flaxen" if has_key or len(models) != 1 else models[0].name,
        models=() if has_key else models,
        has_key=has_key,
        has_jobs=has_jobs,
        chats=chats,
        pools=target.pools,
        may_train=has_jobs or (bool(models) and not target.pools),
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


async def file(context: Context, http: Request) -> Response:
    """Answers GET /page/{name} for a server of one model."""
    return await page_file(http)


async def page_file(http: Request) -> Response:
    """Answers GET /page/{name}: a script or the style of the pages, again only if it has changed.

    Raises:
      ApiError: 404, no file has the name.
    """
    name = http.path_params["name"]
    if name not in _files():
        raise not_found("file of the pages", name)
    content, headers = _files()[name]
    if http.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


@functools.cache
def _files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The files that pages load, with their headers; read once, because they do not change."""
    found = {}
    for path in (Path(__file__).parent / "page").iterdir():
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"content-type": _TYPES[path.suffix], "etag": etag, "cache-control": "no-cache"}
        found[path.name] = (content, _HEADERS | headers)
    return found


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
