"""The log's lines as text and as JSON, and that nobody waits for who reads them."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from pathlib import Path
from typing import Any, TextIO

from flaxen.serving.logs import BackgroundHandler, JsonFormatter, LogFormat, logging_to

_logger = logging.getLogger("flaxen.test")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text_of(log_format: LogFormat, stream: TextIO | None = None, level: str = "info") -> list[str]:
    stream = stream or io.StringIO()
    with logging_to(stream, log_format, level):
        _logger.info(
            "step %(step)d", {"step": 3}, extra={"loss": 0.5, "who": 'a "b"\nc', "ok": True}
        )
        _logger.debug("not logged")
        logging.getLogger("other").info("not logged either")
        logging.getLogger("other").warning("a warning of %s", "others")
    stream.seek(0)
    return stream.read().splitlines()


def objects(stream: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_text() -> None:
    step, other = text_of(LogFormat.TEXT)
    time, rest = step[:23], step[23:]
    assert rest == r' INFO flaxen.test: step 3 loss=0.5 who="a \"b\"\nc" ok=true'
    assert (time[4], time[10], time[19]) == ("-", " ", ".")
    assert other.endswith(" WARNING other: a warning of others")


def test_text_on_a_terminal_is_short() -> None:
    step, other = text_of(LogFormat.TEXT, Terminal())
    assert step[8:] == r' step 3 loss=0.5 who="a \"b\"\nc" ok=true'
    assert other[8:] == " WARNING a warning of others"


def test_json() -> None:
    step, other = (json.loads(line) for line in text_of(LogFormat.JSON))
    assert step.pop("ts").endswith("+00:00")
    assert step == {
        "level": "info", "logger": "flaxen.test", "msg": "step 3",
        "step": 3, "loss": 0.5, "who": 'a "b"\nc', "ok": True,
    }  # fmt: skip
    assert (other["level"], other["logger"]) == ("warning", "other")


def test_what_json_has_no_number_for_is_text() -> None:
    stream = io.StringIO()
    with logging_to(stream, LogFormat.JSON, "info"):
        _logger.info("diverged", extra={"loss": float("nan"), "rate": float("inf")})
    assert '"loss": "nan", "rate": "inf"' in stream.getvalue()


def test_exceptions_and_warnings_are_inside_the_json() -> None:
    stream = io.StringIO()
    with logging_to(stream, LogFormat.JSON, "info"), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        try:
            raise ValueError("two\nlines")
        except ValueError as error:
            _logger.error("it failed", exc_info=error)
        warnings.warn("be warned", stacklevel=1)
    failed, warned = objects(stream)
    assert failed["exception"].endswith("ValueError: two\nlines")
    assert failed["exception"].startswith("Traceback")
    assert "be warned" in warned["msg"]
    assert warned["logger"] == "py.warnings"


def test_an_exception_follows_its_line_of_text() -> None:
    stream = io.StringIO()
    with logging_to(stream, LogFormat.TEXT, "info"):
        _logger.error("it failed", exc_info=ValueError("why"))
    assert stream.getvalue().splitlines()[-1] == "ValueError: why"


def test_the_level() -> None:
    assert len(text_of(LogFormat.TEXT, level="warning")) == 1
    assert len(text_of(LogFormat.TEXT, level="debug")) == 3


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    """Lines beyond the limit are dropped and counted."""
    read = threading.Event()

    class Blocked(io.StringIO):
        def write(self, text: str) -> int:
            assert read.wait(10)
            return io.StringIO.write(self, text)

    stream = Blocked()
    handler = BackgroundHandler(stream, max_waiting=5)
    handler.setFormatter(JsonFormatter())
    for number in range(20):
        handler.handle(logging.makeLogRecord({"name": "flaxen.test", "msg": f"line {number}"}))
    read.set()
    handler.close()
    *lines, dropped = objects(stream)
    assert [line["msg"] for line in lines] == [f"line {number}" for number in range(len(lines))]
    assert dropped["num_lines"] == 20 - len(lines)
    assert "lines of the log were dropped, because nobody read it" in dropped["msg"]


def test_the_log_ends_with_its_block(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        with logging_to(stream, LogFormat.TEXT, "info"):
            _logger.info("the last line")
        assert "the last line" in (tmp_path / "log").read_text()
        logging.getLogger("flaxen.test").warning("after the end")
    assert "after the end" not in (tmp_path / "log").read_text()
