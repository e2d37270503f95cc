"""The log of a router's decisions, from which they can be taken again by another configuration.

Deliberately does not know: when a request is logged, and what is redacted.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxen.router.signals.found import Found

CREATE = """CREATE TABLE IF NOT EXISTS requests(
    id TEXT PRIMARY KEY, time REAL, api TEXT, body_json TEXT, features_json TEXT,
    decision TEXT, model TEXT, reason TEXT)"""
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, kw_only=True)
class LoggedRequest:
    """A row of the log.

    Attributes:
      time: in seconds since 1970.
      body: what the client sent; None if it was redacted.
      recipe: what it was decided by.
      found: what signals found, by the condition's type and name.
      decision, model, reason: what was decided, "" for none, and why that model.
    """

    id: str
    time: float
    api: str
    body: Mapping[str, Any] | None
    recipe: str
    found: Mapping[tuple[str, str], Found]
    decision: str
    model: str
    reason: str

    def row(self) -> tuple[Any, ...]:
        """The values of the columns of CREATE, in their order."""
        body = None if self.body is None else json.dumps(self.body)
        features = json.dumps(self.features())
        return self.id, self.time, self.api, body, features, self.decision, self.model, self.reason

    def features(self) -> dict[str, Any]:
        """The row's recipe and what signals found, without reasons and entities: they may quote the
        body."""
        items = sorted(self.found.items())
        found = [[*key, each.matched, each.confidence, each.value] for key, each in items]
        return {"recipe": self.recipe, "found": found}


def read_log(path: Path) -> Iterator[LoggedRequest]:
    """The requests of a log, the oldest first: of a file of SQLite with the table of CREATE, or of
    JSON lines with the same names, where `body` and `features` are objects.

    Raises:
      ValueError: the file, or one of its rows, is in no such form.
    """
    with path.open("rb") as file:
        is_sqlite = file.read(len(_SQLITE)) == _SQLITE
    rows = _of_sqlite(path) if is_sqlite else _of_lines(path)
    number = 0
    try:
        for values in rows:
            yield _read(values)
            number += 1
    except (sqlite3.DatabaseError, KeyError, TypeError, ValueError) as error:
        text = f"{path} is no log of a router, behind {number} requests: {error!r}"
        raise ValueError(text) from error


def _of_sqlite(path: Path) -> Iterator[Mapping[str, Any]]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        for row in database.execute("SELECT * FROM requests ORDER BY time, id"):
            body, features = json.loads(row["body_json"] or "null"), row["features_json"]
            yield {**row, "body": body, "features": json.loads(features)}


def _of_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _read(values: Mapping[str, Any]) -> LoggedRequest:
    features = values["features"]
    return LoggedRequest(
        **{name: values[name] for name in ("id", "time", "api", "decision", "model", "reason")},
        body=values["body"],
        recipe=features["recipe"],
        found={
            (kind, name): Found(matched=matched, confidence=confidence, value=value)
            for kind, name, matched, confidence, value in features["found"]
        },
    )
