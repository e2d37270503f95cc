"""The ASGI application: maps routes to their handlers. Contains no logic of a route."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from flaxen.output_parsers.table import choose_formats
from flaxen.protocol import (
    EngineBusyError,
    EngineClient,
    EngineClosedError,
    UnknownAdapterError,
)
from flaxen.server import control, info
from flaxen.server.adapter_files import AdapterFiles
from flaxen.server.adapters import routes as adapters
from flaxen.server.config import ServerConfig
from flaxen.server.context import Context
from flaxen.server.error_answers import handle_error
from flaxen.server.errors import ApiError
from flaxen.server.generation import chat, chat_batch, completions, tokenize
from flaxen.server.guard import Guard
from flaxen.server.invocations import Handler, invoke
from flaxen.server.metrics import Metrics, ServerMetrics
from flaxen.server.pages import routes as pages
from flaxen.server.renderer import ChatRenderer
from flaxen.server.routing import add_route
from flaxen.structured import GrammarCompiler
from flaxen.text.chat import TOOLS_TEMPLATE, ChatTemplate
from flaxen.text.tokenizer import Tokenizer

Routes = Mapping[tuple[str, str], Handler]  # by method and path
NO_ROUTES: Routes = MappingProxyType({})
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/v1/completions"): completions.create,
    ("POST", "/v1/chat/completions"): chat.create,
    ("POST", "/v1/chat/completions/batch"): chat_batch.create,
    ("GET", "/v1/models"): info.list_models,
    ("GET", "/v1/models/{name:path}"): info.get_model,
    ("POST", "/tokenize"): tokenize.tokenize,
    ("POST", "/detokenize"): tokenize.detokenize,
    ("GET", "/tokenizer_info"): info.tokenizer_info,
    ("GET", "/health"): info.health,
    ("GET", "/load"): info.load,
    ("GET", "/version"): info.version,
    ("GET", "/metrics"): info.metrics,
    ("GET", "/"): pages.home,
    ("GET", "/docs"): pages.reference,
    ("GET", "/page/{name}"): pages.file,
}

# Other paths of routes: llama.cpp's without /v1, and those that SageMaker asks for.
ALIASES: dict[tuple[str, str], tuple[str, str]] = {
    ("POST", "/completions"): ("POST", "/v1/completions"),
    ("POST", "/chat/completions"): ("POST", "/v1/chat/completions"),
    ("POST", "/embeddings"): ("POST", "/v1/embeddings"),
    ("POST", "/responses"): ("POST", "/v1/responses"),
    ("GET", "/models"): ("GET", "/v1/models"),
    ("GET", "/v1/health"): ("GET", "/health"),
    ("GET", "/ping"): ("GET", "/health"),
    ("POST", "/ping"): ("GET", "/health"),
}
INVOCATIONS = ("POST", "/invocations")

DEV_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/reset_prefix_cache"): control.reset_prefix_cache,
}

ADAPTER_ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/v1/load_lora_adapter"): adapters.load,
    ("POST", "/v1/unload_lora_adapter"): adapters.unload,
}


def create_app(
    engine: EngineClient,
    tokenizer: Tokenizer,
    config: ServerConfig,
    *,
    adapter_files: AdapterFiles | None = None,
    more_routes: Routes = NO_ROUTES,
) -> FastAPI:
    """Returns the server of an engine as an ASGI application. The caller closes the engine.

    Args:
      engine: the engine that serves requests.
      tokenizer: the tokenizer of its model.
      config: limits and names.
      adapter_files: where clients may load adapters from; without it the routes that load adapters
          do not exist.
      more_routes: those of a room above this one, such as `pooling_routes`.

    Raises:
      ValueError: the tokenizer's chat template is not valid.
    """
    app = create_model_app(
        engine, tokenizer, config, adapter_files=adapter_files, more_routes=more_routes
    )
    add_guard(app, config)
    return app


def create_model_app(
    engine: EngineClient,
    tokenizer: Tokenizer,
    config: ServerConfig,
    *,
    metrics: Metrics | None = None,
    adapter_files: AdapterFiles | None = None,
    more_routes: Routes = NO_ROUTES,
) -> FastAPI:
    """Returns the routes of one model, without the guard that all requests of a server pass.

    Args and errors are those of `create_app`; `metrics` are the model's, None makes them.
    """
    renderer = None
    if tokenizer.chat_template is not None or tokenizer.named_templates:
        renderer = ChatRenderer(lambda timeout_s: ChatTemplate.of(tokenizer, timeout_s=timeout_s))
    model_name = (config.served_model_names or (engine.info.name,))[0]
    templates = (tokenizer.chat_template, tokenizer.named_templates.get(TOOLS_TEMPLATE))
    formats = choose_formats(
        "\n".join(filter(None, templates)),
        tool_parser=config.tool_call_parser,
        reasoning_parser=config.reasoning_parser,
    )
    context = Context(
        engine=engine,
        tokenizer=tokenizer,
        chat_template=renderer,
        config=config,
        metrics=metrics or Metrics(engine, model_name, ServerMetrics(config.metrics_prefix)),
        formats=formats,
        adapter_files=adapter_files,
        grammars=GrammarCompiler(tokenizer, engine.info.vocab_size, engine.info.eos_token_ids),
    )
    app = empty_app()
    routes = {
        **ROUTES,
        **({} if adapter_files is None else ADAPTER_ROUTES),
        **(DEV_ROUTES if config.dev_mode else {}),
        **more_routes,
    }
    routes |= {alias: routes[route] for alias, route in ALIASES.items() if route in routes}
    routes[INVOCATIONS] = functools.partial(invoke, routes)
    for (method, path), handler in routes.items():
        add_route(app, method, path, functools.partial(handler, context))
    return app


def empty_app() -> FastAPI:
    """An application without routes, which turns errors into OpenAI's JSON."""
    # Not FastAPI's own pages: they load scripts from other sites, and can't describe our bodies.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for error in (
        ApiError,
        ClientDisconnect,
        EngineBusyError,
        EngineClosedError,
        HTTPException,
        UnknownAdapterError,
    ):
        app.add_exception_handler(error, handle_error)
    return app


def add_guard(app: FastAPI, config: ServerConfig) -> None:
    """Puts what every request passes around an application."""
    app.add_middleware(Guard, config=config)
    if config.cors_origins:
        # Outside the guard, because a browser's preflight request has no key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # the official client sends a dozen of its own, x-stainless-*
            expose_headers=["x-request-id"],
        )
