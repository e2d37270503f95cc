"""The log of the process: plain lines or JSON, formatted and written on a thread of its own.

A line's fields are what its message names and what `extra` has, as the standard library passes
them: logger.info("step %(step)d", {"step": 3}, extra={"loss": 0.5}). Deliberately does not know
what is logged.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import math
import queue
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

_END_S = 2.0  # the most seconds to write what waits when the log ends
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+,-]+")
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(enum.StrEnum):
    """The format of the log's lines."""

    TEXT = "text"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The level of logging."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class TextFormatter(logging.Formatter):
    """Writes the time, level, logger and message, and then the fields as name=value.

    Args:
      is_short: leaves out what somebody who watches the log knows: the date, and what is usual.
    """

    def __init__(self, *, is_short: bool = False) -> None:
        logging.Formatter.__init__(self)
        self._is_short = is_short

    def format(self, record: logging.LogRecord) -> str:
        local = datetime.fromtimestamp(record.created)
        if self._is_short:
            level = "" if record.levelno == logging.INFO else f" {record.levelname}"
            begin = f"{local:%H:%M:%S}{level}"
        else:
            time = local.isoformat(sep=" ", timespec="milliseconds")
            begin = f"{time} {record.levelname} {record.name}:"
        text = f"{begin} {record.getMessage().strip()}"
        fields = " ".join(f"{name}={_shown(value)}" for name, value in _extra(record))
        text = f"{text} {fields}" if fields else text
        trace = _traceback(record)
        return f"{text}\n{trace}" if trace else text


class JsonFormatter(logging.Formatter):
    """Writes one JSON object: ts, level, logger, msg, and the fields by their names."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage().strip(),
        }
        named = record.args if isinstance(record.args, Mapping) else {}
        for name, value in (*named.items(), *_extra(record)):
            line.setdefault(name, _finite(value))
        trace = _traceback(record)
        if trace:
            line["exception"] = trace
        return json.dumps(line, default=str)


class BackgroundHandler(logging.Handler):
    """Formats and writes lines on a thread of its own, so that who logs never waits for a reader.

    Args:
      stream: where the lines go.
      max_waiting: lines that may wait to be written; if nobody reads the log, later ones are
          dropped and counted.
    """

    def __init__(self, stream: TextIO, *, max_waiting: int = 10_000) -> None:
        logging.Handler.__init__(self)
        self._stream = stream
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(max_waiting)
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._work, name="flaxen-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._num_dropped += 1

    def close(self) -> None:
        """Writes what waits, for a while: a stream that nobody reads must not keep the process."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_END_S)
        self._thread.join(_END_S)
        logging.Handler.close(self)

    def _work(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._write(record)
            if self._waiting.empty():
                self._write_dropped()
        self._write_dropped()

    def _write_dropped(self) -> None:
        if self._num_dropped:
            count, self._num_dropped = self._num_dropped, 0
            self._write(_dropped(count))

    def _write(self, record: logging.LogRecord) -> None:
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except Exception:  # like logging's own handlers: a bad line must not end the log
            self.handleError(record)


@contextlib.contextmanager
def logging_to(stream: TextIO, log_format: LogFormat, level: str) -> Iterator[logging.Handler]:
    """Sends the log of the whole process to a stream during the block.

    Args:
      stream: usually stderr.
      log_format: the format of a line.
      level: the least level of flaxen's own loggers; others are logged from warnings on.
    """
    handler = BackgroundHandler(stream)
    if log_format is LogFormat.JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(is_short=stream.isatty()))
    root, own = logging.getLogger(), logging.getLogger("flaxen")
    root.addHandler(handler)
    own.setLevel(level.upper())
    logging.captureWarnings(True)  # Python's warnings become lines of the log
    try:
        yield handler
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """The fields that `extra` gave, in their order."""
    return ((name, value) for name, value in vars(record).items() if name not in _OWN)


def _finite(value: Any) -> Any:
    """A value for JSON, which has no number for the loss of a job that diverges."""
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else str(value)


def _shown(value: Any) -> str:
    """A value as text: in quotes, with escapes, if it could be mistaken for more than one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _traceback(record: logging.LogRecord) -> str:
    """The traceback of a line's exception; "" if it has none."""
    if not record.exc_info:
        return ""
    return logging.Formatter().formatException(record.exc_info)


def _dropped(count: int) -> logging.LogRecord:
    return logging.LogRecord(
        "flaxen.log",
        logging.WARNING,
        __file__,
        0,
        "%(num_lines)d lines of the log were dropped, because nobody read it fast enough",
        ({"num_lines": count},),
        None,
    )
