"""What is written to the replay log, and read from there."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from flaxen.router.replay_log import LoggedRequest, read_log
from tests.cli.route.files import run
from tests.routing.fakes import (
    FILE,
    FakeProxy,
    broken,
    make_proxy,
    make_router,
    metric,
    with_plugins,
)
from tests.server.clients import post

SUM = {"model": "auto", "messages": [{"role": "user", "content": "the sum of 1 and 2"}]}
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
CHATS = "/v1/chat/completions"
ON = "global: {services: {router_replay: {enabled: true, ttl_seconds: 3600}}}"


def make(tmp_path: Path, *plugins: str, more: str = ON) -> FakeProxy:
    return make_proxy(more, edit=with_plugins(*plugins), log_path=tmp_path / "a.replay.sqlite")


def logged(proxy: FakeProxy, num: int) -> list[LoggedRequest]:
    """The log, once it has that many rows."""
    path, until = proxy.service.log_path, time.monotonic() + 10
    assert path is not None
    while time.monotonic() < until:
        with contextlib.suppress(ValueError, OSError):
            if len(rows := list(read_log(path))) >= num:
                return rows
        time.sleep(0.01)
    raise AssertionError(f"fewer than {num} rows")


def asked(proxy: FakeProxy, body: object, name: str) -> int:
    return post(proxy.app, CHATS, body, headers={"x-request-id": name}).status_code


def test_each_decided_request_is_a_row_without_its_text(tmp_path: Path) -> None:
    proxy = make(tmp_path)
    asked(proxy, SUM, "r1")
    asked(proxy, HELLO, "r2")
    asked(proxy, SUM | {"model": "small"}, "r3")  # it is not decided
    for model in proxy.upstreams.values():
        model.answers = [broken()]
    assert asked(proxy, SUM, "r4") == 502
    rows = logged(proxy, 3)
    assert [(row.id, row.decision, row.model, row.reason) for row in rows] == [
        ("r1", "math", "large", "the greatest score, 1; the first of 2 with it"),
        ("r2", "", "small", "the only candidate"),
        ("r4", "math", "", "502 upstream_failed"),
    ]
    found = rows[0].found["keyword", "sums"]
    assert (rows[0].api, rows[0].recipe, found.matched, found.reason) == (
        "chat",
        "default",
        True,
        "",
    )
    raw = (tmp_path / "a.replay.sqlite").read_bytes()
    assert b"the sum of" not in raw
    assert (tmp_path / "a.replay.sqlite").stat().st_mode & 0o077 == 0
    assert metric(proxy, "llm_router_replay_rows_written") == 3


def test_a_body_is_kept_where_the_plugin_says_so_and_it_is_short(tmp_path: Path) -> None:
    plugin = (
        "{type: router_replay, configuration: {capture_request_body: true, max_body_bytes: 99}}"
    )
    proxy = make(tmp_path, plugin, more="")  # the plugin alone switches the log on
    asked(proxy, SUM, "r1")
    asked(proxy, HELLO, "r2")
    asked(proxy, SUM | {"user": "x" * 99}, "r3")
    rows = logged(proxy, 2)
    assert [(row.id, row.body) for row in rows] == [("r1", SUM), ("r3", None)]


@pytest.mark.parametrize("off", ["plugin", "recipe"])
def test_a_decision_or_a_recipe_can_be_left_out(tmp_path: Path, off: str) -> None:
    plugin = "{type: router_replay, configuration: {enabled: false}}"
    policy = "  data_policy: {replay: false}\n" + ON
    proxy = make(tmp_path, *[plugin] * (off == "plugin"), more=ON if off == "plugin" else policy)
    asked(proxy, SUM, "r1")
    if off == "recipe":  # until its file changes
        proxy.service.router = make_router(FILE.replace("MORE", ON), proxy.upstreams)
    asked(proxy, HELLO, "r2")
    assert [row.id for row in logged(proxy, 1)] == ["r2"]


def test_an_id_that_is_used_again_is_a_row_of_its_own(tmp_path: Path) -> None:
    proxy = make(tmp_path)
    asked(proxy, SUM, "same")
    asked(proxy, HELLO, "same")
    first, second = logged(proxy, 2)
    assert (first.id, first.decision, second.decision) == ("same", "math", "")
    assert second.id.startswith("same#")


def test_old_rows_and_those_over_the_most_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flaxen.routing.replaying._TIDY_S", 0.0)
    proxy = make(tmp_path, "{type: router_replay, configuration: {max_records: 2}}")
    old = LoggedRequest(
        id="old", time=time.time() - 3601, api="chat", body=None, recipe="default", found={},
        decision="", model="", reason="",
    )  # fmt: skip
    with sqlite3.connect(tmp_path / "a.replay.sqlite") as database:
        database.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)", old.row())
    for index in range(4):
        asked(proxy, SUM, f"r{index}")
    asked(proxy, HELLO, "r4")
    until = time.monotonic() + 10
    while [row.id for row in logged(proxy, 0)] != ["r2", "r3", "r4"]:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_log_that_can_not_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.replay.sqlite").mkdir()
    with pytest.raises(OSError, match=r"a\.replay\.sqlite"):
        make(tmp_path)
    (tmp_path / "a.replay.sqlite").rmdir()
    (tmp_path / "a.replay.sqlite").write_text("something else, which is no database")
    with pytest.raises(OSError, match="can't be used: file is not a database"):
        make(tmp_path)


def test_a_failure_later_is_counted_and_the_request_is_answered(tmp_path: Path) -> None:
    proxy = make(tmp_path)
    with sqlite3.connect(tmp_path / "a.replay.sqlite") as database:
        database.execute("DROP TABLE requests")
    assert asked(proxy, SUM, "r1") == 200
    until = time.monotonic() + 10
    while metric(proxy, "llm_router_replay_rows_lost") != 1:
        assert time.monotonic() < until
    asked(proxy, SUM, "r2")  # the file is opened anew
    assert [row.id for row in logged(proxy, 1)] == ["r2"]


def test_the_command_reads_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proxy = make(tmp_path)
    asked(proxy, SUM, "r1")
    logged(proxy, 1)
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(FILE.replace("MORE", ON))
    new.write_text(FILE.replace("MORE", ON).replace("[{model: large}, {", "[{"))
    code, lines = run(capsys, "diff", old, new, "--replay", proxy.service.log_path)
    assert (code, lines[-1].partition(";")[0]) == (1, "1 of 1 requests are decided differently")
