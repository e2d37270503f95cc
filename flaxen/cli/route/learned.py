"""The options for the signals of a router that need a model.

Imports the encoder only when a file needs it, so that other routers start without JAX.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.cli.groups import option
from flaxen.cli.machine import MachineOptions

if TYPE_CHECKING:
    from flaxen.cli.route.outcomes import FindLearned
    from flaxen.learned_signals.encoder import OpenEncoder
    from flaxen.learned_signals.of_file import SignalsOfFile
    from flaxen.router.decisions.tree import SignalKey
    from flaxen.router.request import RoutedRequest
    from flaxen.router.signals.found import Found
    from flaxen.router_config.router_config import RouterConfig

_LONGEST_S = 600.0  # for a signal where nobody waits for an answer: programs may be compiled first


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(MachineOptions):
    """What finds the signals that need a model, and the resources that it may use."""

    encoder: str | None = option(
        None,
        metavar="MODEL",
        help="The encoder that finds signals which need a model.",
        show_default="minilm",
    )
    heads: Path | None = option(
        None,
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="The directory of heads, files that flaxen route train wrote for this encoder.",
        show_default="none",
    )

    def signals(self, timeout_s: float = 5.0) -> SignalsOfFile:
        """What finds the learned signals of files; whoever has it closes it.

        Args:
          timeout_s: after which a signal of a request is unknown.
        """
        from flaxen.learned_signals.of_file import SignalsOfFile

        return SignalsOfFile(self._open, self.heads, timeout_s)

    def _open(self) -> OpenEncoder:
        self.set_up()
        from flaxen.learned_signals.encoder import OpenEncoder

        return OpenEncoder(self.encoder or "minilm", offline=self.offline)

    @contextlib.contextmanager
    def asking(self, config: RouterConfig) -> Iterator[FindLearned | None]:
        """Yields what asks models for the signals of a configuration; None where no option says
        which.

        Raises:
          OSError, ValueError: as in `SignalsOfFile.of`.
        """
        if self.encoder is None and self.heads is None:
            yield None
            return
        with contextlib.closing(self.signals(_LONGEST_S)) as signals, asyncio.Runner() as runner:
            of_recipes = runner.run(signals.of(config, config.recipes))

            def find(
                request: RoutedRequest, recipe: str, wanted: Sequence[SignalKey]
            ) -> Mapping[SignalKey, Found]:
                return runner.run(of_recipes[recipe].find(request, wanted))

            yield find
