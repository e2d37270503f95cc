"""ReplayWriter: writes what a router decides to a file, from which it can be decided again."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flaxen.router.replay_log import CREATE, LoggedRequest
from flaxen.router_config.decision import Decision
from flaxen.router_config.plugins import Replay
from flaxen.router_config.router_config import RouterConfig
from flaxen.routing.service import Outcome, RoutingService

logger = logging.getLogger("flaxen.router")

_MOST_WAITING = 4_096  # rows
_TIDY_S = 60.0  # between two looks for rows that are too old or too many
_INSERT = "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_OLD = "DELETE FROM requests WHERE time < ?"
_OVER = """DELETE FROM requests WHERE rowid IN (SELECT rowid FROM requests
    WHERE decision = ? AND json_extract(features_json, '$.recipe') = ?
    ORDER BY time DESC, rowid DESC LIMIT -1 OFFSET ?)"""


class ReplayWriter:
    """Writes what becomes of requests to the log, on one thread, while they go on.

    Rows that wait for the thread are bounded: further ones are dropped and counted. What waits when
    the process ends is written then.

    Args:
      path: of the file, which is made for its owner alone to read.

    Attributes:
      num_rows: those that were written, dropped because too many waited, and lost by a failure.

    Raises:
      OSError: the configuration asks for the log, and the file can't be opened.
    """

    def __init__(self, service: RoutingService, path: Path) -> None:
        self._service, self._path = service, path
        self._rows: deque[tuple[LoggedRequest, Replay]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="flaxen-replay")
        self._database: sqlite3.Connection | None = None
        self._tidied_at = 0.0
        self._most: dict[tuple[str, str], int] = {}  # rows of a decision, by its recipe
        self.num_rows = {"written": 0, "dropped": 0, "lost": 0}
        if _is_asked(service.router.config):
            self._thread.submit(self._open).result()
        service.listeners.append(self._listen)

    def _listen(self, outcome: Outcome) -> None:
        routed = outcome.routed
        decision, log = routed.decision, self._service.router.config.settings.services.router_replay
        own = (decision and _own(decision)) or Replay(enabled=log.enabled)
        if not own.enabled or not routed.recipe.routing.data_policy.replay:
            return
        if len(self._rows) >= _MOST_WAITING:
            self.num_rows["dropped"] += 1
            return
        sent, error = outcome.sent, outcome.error
        reason = outcome.path if error is None else f"{error.status} {error.code}"
        logged = LoggedRequest(
            id=outcome.request_id,
            time=time.time(),
            api=routed.request.api,
            body=outcome.body if own.capture_request_body else None,
            recipe=routed.recipe.name,
            found={(key.kind, key.name): each for key, each in routed.found.items()},
            decision="" if decision is None else decision.name,
            model="" if sent is None else sent.selected.model,
            reason=reason if sent is None else sent.selected.reason,
        )
        self._rows.append((logged, own))
        self._thread.submit(self._write, log.ttl_seconds)

    def _write(self, ttl_s: float) -> None:
        """Writes all rows that wait, in one transaction."""
        rows = list(self._taken())
        if not rows:
            return  # an earlier call has written them
        try:
            database = self._database or self._open()
            with database:
                for logged, own in rows:
                    _insert(database, logged, own.max_body_bytes)
                    self._most[logged.decision, logged.recipe] = own.max_records
                if time.monotonic() >= self._tidied_at + _TIDY_S:
                    self._tidy(database, ttl_s)
            self.num_rows["written"] += len(rows)
        except (OSError, sqlite3.Error):
            self.num_rows["lost"] += len(rows)
            self._database = None  # the file may be gone: the next rows open it anew
            logger.exception("%d rows of the replay log %s are lost", len(rows), self._path)

    def _taken(self) -> Iterator[tuple[LoggedRequest, Replay]]:
        while self._rows:
            yield self._rows.popleft()

    def _tidy(self, database: sqlite3.Connection, ttl_s: float) -> None:
        """Removes rows that are too old, and the oldest of decisions that have too many."""
        if ttl_s:
            database.execute(_OLD, (time.time() - ttl_s,))
        for (decision, recipe), most in self._most.items():
            database.execute(_OVER, (decision, recipe, most))
        self._tidied_at = time.monotonic()

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            self._database = sqlite3.connect(self._path)  # closed with the process
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(CREATE)
        except sqlite3.Error as error:
            self._database = None
            raise OSError(f"the replay log {self._path} can't be used: {error}") from error
        return self._database


def _is_asked(config: RouterConfig) -> bool:
    """Whether a configuration asks for the log."""
    decisions = (each for recipe in config.recipes.values() for each in recipe.routing.decisions)
    asked = config.settings.services.router_replay.enabled
    return asked or any((own := _own(decision)) and own.enabled for decision in decisions)


def _own(decision: Decision) -> Replay | None:
    """What a decision's plugin says of the log."""
    plugins = (each for each in decision.plugins if each.type == "router_replay")
    return next((each.configuration for each in plugins), None)


def _insert(database: sqlite3.Connection, logged: LoggedRequest, most_body_bytes: int) -> None:
    """Adds a row, without its body where that is too long. Clients choose the ids of requests: one
    that is there already gets an addition."""
    name, at, api, body, *rest = logged.row()
    if body is not None and len(body) > most_body_bytes:
        body = None
    values = (at, api, body, *rest)
    if not database.execute(_INSERT, (name, *values)).rowcount:
        database.execute(_INSERT, (f"{name}#{uuid.uuid4().hex[:12]}", *values))
