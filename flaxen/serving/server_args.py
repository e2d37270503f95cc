"""The arguments of a server, whatever models it serves.

Deliberately does not know how a command reads them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flaxen.serving.fact import Fact
from flaxen.serving.logs import LogFormat

if TYPE_CHECKING:
    from flaxen.build import OnProgress
    from flaxen.job_routes.stores import Stores, StoresConfig
    from flaxen.routing.file import RouterFile
    from flaxen.server.config import ServerConfig


@dataclass(frozen=True, kw_only=True)
class ServerArgs:
    """What a server is started with, beside its models."""

    config: ServerConfig
    host: str
    port: int  # 0 takes a free one
    uds: str | None  # a Unix socket to listen on, in place of host and port
    log_format: LogFormat
    is_quiet: bool  # says only that it is ready
    stores: StoresConfig | None  # of files, jobs, batches and responses; None keeps none
    fine_tuning_share: float  # of the time that a job trains while requests run
    set_up: Callable[[], Sequence[Fact]]  # sets up what computes, and says what that is
    progress: Callable[[], contextlib.AbstractContextManager[OnProgress]]  # shows what is loaded
    router: RouterFile | None = None  # decides which model answers; None: requests name it

    @contextlib.contextmanager
    def open_stores(self) -> Iterator[Stores | None]:
        """Opens the stores of files and jobs for the block; None where nothing is kept.

        Called before the weights are read, so that errors are reported at once.

        Raises:
          ValueError: another server uses the data directory, it or the database can't be used, or
              the two do not belong together.
        """
        if self.stores is None:
            yield None
            return
        from flaxen.job_routes.stores import open_stores

        with open_stores(self.stores) as stores:
            yield stores
