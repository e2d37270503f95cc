"""Router: a configuration that is compiled to serve, and stays as it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.deciding import LearnedSignals, RecipeDecider
from flaxen.routing.http_client import HttpClient
from flaxen.routing.http_upstream import HttpUpstream, backends_of
from flaxen.routing.supported import check_supported
from flaxen.routing.upstream import Upstream


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a model is, and what its server calls it. Without an upstream it is in this process.

    Attributes:
      api: the only API that its server knows; "" for no bound.
    """

    name: str
    upstream: Upstream | None = None
    api: str = ""


class Router:
    """A configuration that is compiled to serve.

    Args:
      served: the models of this process, adapters too.
      environment: the variables that may have the keys of servers.
      client: keeps the connections to servers.
      learned: what finds the signals that need a model, by recipe.

    Raises:
      ValueError: something in it can't be served here; with a sentence for each thing.
    """

    def __init__(
        self,
        config: RouterConfig,
        *,
        served: Collection[str],
        environment: Mapping[str, str],
        client: HttpClient,
        learned: Mapping[str, LearnedSignals] | None = None,
    ) -> None:
        learned = learned or {}
        check_supported(config, served, learned)
        self.config = config
        self.targets = {name: Target(name=name) for name in served}
        for model in (model for model in config.providers.models if model.backend_refs):
            upstream = HttpUpstream(client, backends_of(model, environment))
            there = model.provider_model_id or model.name
            self.targets[model.name] = Target(name=there, upstream=upstream, api=model.api)
            for lora in config.cards[model.name].loras if model.name in config.cards else ():
                self.targets[lora.name] = Target(name=lora.name, upstream=upstream)
        self._deciders = {
            name: RecipeDecider(config, config.recipes[name], learned.get(name))
            for name in set(config.entrypoints.values())
        }

    @property
    def has_local(self) -> bool:
        """Whether models of this process are among those that may answer."""
        return any(target.upstream is None for target in self.targets.values())

    def decider_of(self, model: object) -> RecipeDecider | None:
        """What decides the requests for a model's name; None if it is a model, or no name."""
        recipe = self.config.entrypoints.get(model) if isinstance(model, str) else None
        return None if recipe is None else self._deciders[recipe]
