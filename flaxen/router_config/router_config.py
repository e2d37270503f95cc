"""RouterConfig: a configuration that was read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flaxen.router_config.models import Evaluation, Listener, ModelCard, Providers
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.settings import Global

DEFAULT = "default"  # the recipe of `routing`


@dataclass(frozen=True, kw_only=True)
class RouterConfig:
    """What a router works by.

    Attributes:
      cards: what is known of models, by name.
      recipes: by name.
      entrypoints: the recipe of each model's name that is decided; others pass untouched.
      settings: what all recipes share.
      is_migrated: whether the file was of an older version.
    """

    listeners: tuple[Listener, ...]
    providers: Providers
    evaluation: Evaluation
    cards: Mapping[str, ModelCard]
    recipes: Mapping[str, Recipe]
    entrypoints: Mapping[str, str]
    settings: Global
    is_migrated: bool = False

    def recipe_of(self, model: str) -> Recipe | None:
        """The recipe that a model's name stands for; None if it is a model, or unknown."""
        name = self.entrypoints.get(model)
        return None if name is None else self.recipes[name]
