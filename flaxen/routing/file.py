"""RouterFile: the file of a configuration, read at the start and again whenever it changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flaxen.router_config.load import load_config
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.compiled import Router
from flaxen.routing.deciding import LearnedOfFile, NoLearned
from flaxen.routing.http_client import HttpClient
from flaxen.routing.service import RoutingService

logger = logging.getLogger("flaxen.router")

_LOOK_S = 1.0  # between two looks at the file


@dataclass(frozen=True, kw_only=True)
class RouterFile:
    """The file of a configuration.

    Attributes:
      environment: the variables that it may name.
      served: the models of this process; None while they are not known.
      learned: makes what finds the signals that need a model.
    """

    path: Path
    environment: Mapping[str, str]
    served: Collection[str] | None = None
    learned: LearnedOfFile = field(default_factory=NoLearned)

    @property
    def log_path(self) -> Path:
        """The file of the replay log: it stands beside this one."""
        return self.path.with_suffix(".replay.sqlite")

    def read(self) -> RouterConfig:
        """Reads and checks the file.

        Raises:
          OSError: it can't be read.
          ConfigError: it can't be used, with all that is wrong.
        """
        text, name = self.path.read_text(encoding="utf-8"), str(self.path)
        return load_config(text, name=name, environment=self.environment, served=self.served)

    async def compile(self, config: RouterConfig, client: HttpClient) -> Router:
        """Makes a configuration ready to serve, with what takes the processor on a thread.

        Raises:
          OSError: what finds its learned signals can't be read.
          ValueError: something in it can't be served here.
        """
        learned = await self.learned.of(config)
        make = partial(Router, config, served=self.served or (), environment=self.environment)
        return await asyncio.to_thread(make, client=client, learned=learned)

    async def watch(
        self, service: RoutingService, client: HttpClient, look_s: float = _LOOK_S
    ) -> None:
        """Gives a service the file's configuration whenever the file changes.

        It is replaced as a whole, between two requests. One that can't be used is logged, and the
        last good one stays.
        """
        seen = self._stamp()
        while True:
            await asyncio.sleep(look_s)
            if (now := self._stamp()) == seen:
                continue
            seen = now
            try:
                router = await self._again(service.router.config, client)
            except (OSError, ValueError) as error:
                service.stale = str(error)
                logger.error(
                    "the changed configuration can't be used, the last one stays: %s", error
                )
                continue
            service.router, service.stale = router, ""
            logger.info("the configuration has changed, and is used now")

    async def _again(self, before: RouterConfig, client: HttpClient) -> Router:
        config = await asyncio.to_thread(self.read)
        if config.listeners != before.listeners:
            raise ValueError("listeners can't change while the router runs: start it again")
        return await self.compile(config, client)

    def _stamp(self) -> tuple[int, int, int]:
        """What changes when the file does; zeros while it is not there."""
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0, 0
        return found.st_mtime_ns, found.st_size, found.st_ino
