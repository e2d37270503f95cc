"""The top of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flaxen.router_config.models import Evaluation, Listener, Providers
from flaxen.router_config.routing import DefaultRouting, EntrypointShape, RecipeShape
from flaxen.router_config.settings import Global


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of version v0.3, as it was written."""

    version: Literal["v0.3"]
    listeners: tuple[Listener, ...] = ()
    providers: Providers = field(default_factory=Providers)
    evaluation: Evaluation = field(default_factory=Evaluation)
    routing: DefaultRouting = field(default_factory=DefaultRouting)
    recipes: tuple[RecipeShape, ...] = ()
    entrypoints: tuple[EntrypointShape, ...] = ()
    global_: Global = field(default_factory=Global)
