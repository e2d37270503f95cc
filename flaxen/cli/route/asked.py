"""The options of a request that is decided without a server, and the file that decides it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxen.cli.groups import option

if TYPE_CHECKING:
    from flaxen.cli.route.learned import LearnedOptions
    from flaxen.cli.route.outcomes import Outcome
    from flaxen.router.request import RoutedRequest
    from flaxen.router_config.recipe import Recipe
    from flaxen.router_config.router_config import RouterConfig

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The router's configuration, in YAML.")
]
_TEXT = {"completions": "prompt", "embeddings": "input", "responses": "input"}  # of other APIs


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """A request."""

    request: Annotated[
        Path | None,
        typer.Argument(metavar="[REQUEST]", help="A file with the request's body, in JSON."),
    ] = None
    prompt: str | None = option(
        None, "--prompt", "-p", metavar="TEXT", help="A user's message instead."
    )
    api: str = option("chat", help="chat, completions, responses, messages or embeddings.")
    model: str | None = option(
        None,
        metavar="NAME",
        help="The model that is asked for.",
        show_default="that of the body, else the first entrypoint",
    )
    header: list[str] | None = option(
        None, "--header", "-H", metavar="NAME:VALUE", help="A header of the request."
    )

    def body(self, config: RouterConfig) -> dict[str, Any]:
        """The request's body.

        Raises:
          ValueError: neither or both of REQUEST and --prompt are given, or it is no object.
        """
        if (self.request is None) == (self.prompt is None):
            raise ValueError("give a REQUEST or a --prompt, one of them")
        if self.request is not None:
            body = json.loads(self.request.read_text("utf-8"))
            if not isinstance(body, dict):
                raise ValueError(f"{self.request} must be an object of JSON")
        elif self.api in _TEXT:
            body = {_TEXT[self.api]: self.prompt}
        else:
            body = {"messages": [{"role": "user", "content": self.prompt}]}
        entrypoint = next(iter(config.entrypoints), "")
        return {**body, "model": self.model or body.get("model") or entrypoint}

    def headers(self) -> dict[str, str]:
        """The request's headers.

        Raises:
          ValueError: one has no colon.
        """
        pairs = [each.partition(":") for each in self.header or ()]
        if wrong := [name for name, colon, _ in pairs if not colon]:
            raise ValueError(f"--header must be NAME:VALUE, got {wrong[0]!r}")
        return {name.strip(): value.strip() for name, _, value in pairs}


def load(path: Path) -> RouterConfig:
    """Reads a configuration.

    Raises:
      ConfigError: with all that is wrong with it.
    """
    from flaxen.router_config.load import load_config

    return load_config(path.read_text("utf-8"), name=str(path), environment=os.environ)


def decide(
    file: Path, options: RequestOptions, learned: LearnedOptions
) -> tuple[dict[str, Any], RoutedRequest, Recipe, Outcome]:
    """Decides a request by a configuration.

    Args:
      learned: what finds the signals that need a model.

    Returns:
      Its body, what is read of it, the recipe, and the outcome.

    Raises:
      ValueError: the configuration or the request can't be read, or its model names no recipe.
    """
    from flaxen.cli.route.outcomes import Outcomes
    from flaxen.router.requests.readers import read_request

    config = load(file)
    body = options.body(config)
    recipe = config.recipe_of(body["model"])
    if recipe is None:
        names = ", ".join(config.entrypoints) or "none: give the file entrypoints"
        raise ValueError(
            f"a request for {body['model']!r} passes untouched; names that are decided: {names}"
        )
    request = read_request(options.api, body, options.headers())
    with learned.asking(config) as find:
        return body, request, recipe, Outcomes(config, find).of(request, recipe)
