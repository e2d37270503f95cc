"""`flaxen route diff`: what another configuration decides differently, by a log of requests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flaxen.router.replay_log import CREATE, LoggedRequest, read_log
from flaxen.router.signals.found import Entity, Found
from tests.cli.route.files import CONFIG, file, run

__all__ = ["file"]
LAW, PROOF = ("domain", "law"), ("keyword", "proof")


def logged(
    name: str, text: str | None, law: bool | None = None, proof: bool | None = None
) -> LoggedRequest:
    """A request with this user's text, or redacted, and what signals found in it."""
    known = {LAW: law, PROOF: proof}
    found = {key: Found(matched=is_so) for key, is_so in known.items() if is_so is not None}
    body = {"model": "clever", "messages": [{"role": "user", "content": text}]}
    return LoggedRequest(
        id=name,
        time=float(len(name)),
        api="chat",
        body=None if text is None else body,
        recipe="own",
        found=found,
        decision="hard",
        model="large",
        reason="the only candidate",
    )


ROWS = [
    logged("a", "prove it", law=False),
    logged("bb", "hello", law=False, proof=True),  # a body says itself what is free
    logged("ccc", "hello", law=True),
    logged("dddd", "hello"),  # nobody knows whether it is law
    logged("eeeee", None, law=False, proof=True),
    logged("ffffff", None, law=False, proof=False),
    logged("ggggggg", None, proof=False),
]


def write_sqlite(path: Path, rows: Iterable[LoggedRequest]) -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.execute(CREATE)
        database.executemany(
            "INSERT INTO requests VALUES (?,?,?,?,?,?,?,?)", [row.row() for row in rows]
        )
        database.commit()
    return path


def write_lines(path: Path, rows: Iterable[LoggedRequest]) -> Path:
    names = ("id", "time", "api", "body", "decision", "model", "reason")
    lines = [
        {name: getattr(row, name) for name in names} | {"features": row.features()} for row in rows
    ]
    path.write_text("".join(f"{json.dumps(line)}\n\n" for line in lines))
    return path


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    sure = Found(matched=True, confidence=0.5, value=-2.0)
    rows = [*ROWS, replace(logged("hhhhhhhh", None), found={LAW: sure})]
    assert list(read_log(write_sqlite(tmp_path / "log", reversed(rows)))) == rows
    assert list(read_log(write_lines(tmp_path / "log.jsonl", rows))) == rows


def test_a_log_has_no_texts_of_a_redacted_request() -> None:
    entity = Entity("PERSON", "secret")
    found = {LAW: Found(matched=True, reason="secret", entities=(entity,))}
    row = replace(logged("a", None), found=found).row()
    assert row[3] is None
    assert "secret" not in json.dumps(row)


def changes(lines: list[str]) -> list[list[str]]:
    return [[c.strip() for c in line.strip("│").split("│")] for line in lines if "│" in line]


@pytest.mark.parametrize("write", [write_sqlite, write_lines])
def test_what_changes(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: Path,
    tmp_path: Path,
    write: object,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert callable(write)
    log = write(tmp_path / "log", ROWS)
    code, lines = run(capsys, "diff", file, file, "--replay", log)
    assert code == 0
    assert lines == [
        "0 of 7 requests are decided differently; 2 can't be compared, because a signal of a model "
        "is not in the log, or a body that a rule which changed must read: to log bodies, set "
        "capture_request_body: true in the decisions' plugin router_replay"
    ]
    other = tmp_path / "other.yaml"
    text = CONFIG.replace(
        "modelRefs: [{model: large}]\n          plugins:\n            - {type: s",
        "modelRefs: [{model: small}]\n          plugins:\n            - {type: s",
    )
    other.write_text(text)
    code, lines = run(capsys, "diff", file, other, "--replay", log)
    assert code == 1
    assert changes(lines) == [["2", "own, hard: large", "own, hard: small", "a"]]
    assert lines[-1].startswith("2 of 7 requests are decided differently; 2 can't")


def test_a_rule_that_changed_is_not_taken_from_the_log(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path
) -> None:
    """A body is read again; of a redacted request, what the new rule finds is not known."""
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG.replace("keywords: [prove]", "keywords: [show]"))
    log = write_sqlite(tmp_path / "log", ROWS)
    code, lines = run(capsys, "diff", file, other, "--replay", log)
    assert code == 1
    assert "1 of 7 requests are decided differently; 4 can't be compared" in lines[-1]


def test_what_is_no_log(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text, words in (
        ("", "has no requests"),
        ("{}", "is no log of a router, behind 0 requests: KeyError('features')"),
        ("\nno\n", "is no log of a router, behind 0 requests: JSONDecodeError"),
    ):
        log.write_text(text)
        code, lines = run(capsys, "diff", file, file, "--replay", log)
        assert code == 2
        assert words in lines[0]
    log.unlink()
    with closing(sqlite3.connect(log)) as database:
        database.execute("CREATE TABLE others(a)")
    code, lines = run(capsys, "diff", file, file, "--replay", log)
    assert code == 2
    assert "OperationalError('no such table: requests')" in lines[0]
