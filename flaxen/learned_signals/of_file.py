"""SignalsOfFile: what finds the learned signals of a router's file, on one encoder for all recipes.

Imports JAX only when a file needs it, so that a router without learned signals starts quickly.
Deliberately does not know: argv, how the file is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flaxen.router.selection.neighbours import Examples
from flaxen.router.signals.kinds import KINDS, Cost
from flaxen.router_config.recipe import Recipe
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.answered import read_answered
from flaxen.routing.deciding import LearnedSignals, used_rules

if TYPE_CHECKING:
    from flaxen.learned_signals.encoder import Encoder, OpenEncoder
    from flaxen.learned_signals.head import Head

_LEARNED = {kind.condition for kind in KINDS if kind.cost is Cost.LEARNED}


class SignalsOfFile:
    """Makes what finds the learned signals of configurations, as `LearnedOfFile` says.

    Args:
      open_encoder: opens the encoder, when the first configuration needs it; on a thread.
      heads: a directory whose files are heads, read again for each configuration; None: no head.
      timeout_s: after which a signal is unknown.
    """

    def __init__(
        self, open_encoder: Callable[[], OpenEncoder], heads: Path | None, timeout_s: float = 5.0
    ) -> None:
        self._open, self._heads, self._timeout_s = open_encoder, heads, timeout_s
        self._opened: OpenEncoder | None = None

    async def of(
        self, config: RouterConfig, recipes: Collection[str] | None = None
    ) -> dict[str, LearnedSignals]:
        """What finds the learned signals of each recipe that has some, or compares requests.

        Args:
          recipes: the names of those that are needed; None is what an entrypoint names.

        Raises:
          OSError: the directory can't be read.
          ValueError: a signal needs a head that is not there, a file is no head of this encoder,
            or the encoder can't be opened.
        """
        names = {*config.entrypoints.values()} if recipes is None else recipes
        needed = {name: config.recipes[name] for name in names if _needs(config.recipes[name])}
        if not needed:
            return {}
        heads = await asyncio.to_thread(read_heads, self._heads)
        if self._opened is None:
            self._opened = await asyncio.to_thread(self._open)
        encoder, found = self._opened.encoder, dict[str, LearnedSignals]()
        for name, recipe in sorted(needed.items()):
            try:
                found[name] = await self._of(config, recipe, encoder, heads)
            except ValueError as error:
                where = self._heads or "no directory"
                told = f"the recipe {name} can't be served with the heads of {where}: {error}"
                raise ValueError(told) from None
        return found

    async def _of(
        self, config: RouterConfig, recipe: Recipe, encoder: Encoder, heads: Mapping[str, Head]
    ) -> LearnedSignals:
        from flaxen.learned_signals.making import learned_signals

        catalog, rules = config.settings.model_catalog, used_rules(recipe)
        found = await learned_signals(encoder, rules, catalog, heads, timeout_s=self._timeout_s)
        knn = config.settings.router.model_selection.ml.knn
        if recipe.has_neighbours and knn.pretrained_path:
            answered = await asyncio.to_thread(read_answered, Path(knn.pretrained_path))
            queries, models, scores = zip(*answered, strict=True)
            vectors = await encoder.pooled(queries)
            found.examples = Examples(vectors, models, np.array(scores, np.float32), knn.k)
        return found

    def close(self) -> None:
        """Ends the encoder's engine."""
        if self._opened is not None:
            self._opened.close()


def read_heads(directory: Path | None) -> dict[str, Head]:
    """The heads of a directory by their tasks; those of classifiers by their files' names.

    Raises:
      OSError: it can't be read.
      ValueError: a file is no head, or two are of one task.
    """
    from flaxen.learned_signals.head_file import load_head

    found: dict[str, Head] = {}
    for path in sorted(directory.iterdir()) if directory else ():
        if path.name.startswith(".") or path.suffix == ".unfinished":
            continue
        head = load_head(path)
        name = path.stem if head.task == "classifier" else head.task
        if name in found:
            raise ValueError(f"{directory} has two heads {name}: keep one, and move {path} away")
        found[name] = head
    return found


def _needs(recipe: Recipe) -> bool:
    return recipe.compares or any(key.kind in _LEARNED for key in recipe.used)
