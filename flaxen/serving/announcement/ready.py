"""Says what a server serves and that it is ready: as text, or as lines of a log in JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.text import Text

from flaxen.serving.fact import Fact
from flaxen.serving.logs import LogFormat
from flaxen.serving.server_args import ServerArgs

_LABEL_WIDTH = 13

logger = logging.getLogger("flaxen.server")


def say_ready(
    server: ServerArgs,
    start_s: float,
    name: str,
    about: Callable[[str], Iterable[Fact]],
    url: str,
    *,
    is_one: bool = True,
) -> None:
    """Says what is served and why, and that it is ready.

    Args:
      server: its format of the log, and whether it is quiet.
      start_s: when it began to load, by time.perf_counter.
      name: of its model, or of all models.
      about: gives the facts about a server that listens on a URL; not called if it is quiet.
      url: where it listens.
      is_one: whether it serves a single model.
    """
    seconds = round(time.perf_counter() - start_s, 3)
    facts = () if server.is_quiet else tuple(about(url))
    if server.log_format is LogFormat.TEXT:
        line = ready_line(name, url, seconds, is_one=is_one)
        print_ready(Console(stderr=True), facts, line)
    else:
        log_ready(facts, name, url, seconds, is_one=is_one)


def ready_line(name: str, url: str, seconds: float, *, is_one: bool = True) -> str:
    """The last line, from which programs that start a server read the URL."""
    return f"{name} {'is' if is_one else 'are'} served on {url} (ready in {seconds:.1f} s)"


def print_ready(console: Console, facts: Sequence[Fact], line: str) -> None:
    """Prints one line for each fact, with dim labels on a terminal, and the line after them."""
    for fact in facts:
        text = Text(f"{fact.label:<{_LABEL_WIDTH}}", style="dim")
        text.append(fact.text, style="not dim")
        console.print(text, soft_wrap=True, highlight=False)
    console.out(line, highlight=False)  # without wrapping: programs read the URL from it


def log_ready(
    facts: Sequence[Fact], name: str, url: str, seconds: float, *, is_one: bool = True
) -> None:
    """Logs the fields of all facts as one line, and that the server is ready as another."""
    fields = {key: value for fact in facts for key, value in fact.fields.items()}
    if facts:
        logger.info("configuration", extra=fields)
    # At any level: programs that start a server wait for this line.
    line = ready_line(name, url, seconds, is_one=is_one)
    extra = {"model": name, "url": url, "seconds": seconds}
    logger.handle(
        logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None, extra=extra)
    )
