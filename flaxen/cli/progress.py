"""Shows the progress of long work on a terminal; elsewhere, that of downloads as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from flaxen.hub.sizes import format_size

if TYPE_CHECKING:
    from flaxen.build import OnProgress
    from flaxen.hub.pull import OnDownload

_DOWNLOAD = "download"  # the stage of build() that may take long without a terminal
_LINES_S = 10.0  # between two lines


@contextmanager
def show_progress(console: Console) -> Iterator[OnProgress]:
    """Yields a function that draws one bar for each kind of work; without a terminal it prints
    lines about downloads, and is silent about all other work.
    """
    if not console.is_terminal:
        print_line = download_lines(console)
        yield (
            lambda what, done, total: (
                print_line("the model", done, total) if what == _DOWNLOAD else None
            )
        )
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bars = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done, total=total)

        yield on_progress


@contextmanager
def show_download(console: Console) -> Iterator[OnDownload]:
    """Yields a function that draws one bar for a download, or prints lines without a terminal."""
    if not console.is_terminal:
        yield download_lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("")

        def on_download(name: str, done: int, total: int) -> None:
            if progress.tasks[0].total != total:  # the first call: what is here took no time
                progress.reset(bar, total=total, completed=done)
            progress.update(bar, description=name, completed=done)

        yield on_download


def download_lines(console: Console, clock: Callable[[], float] = time.monotonic) -> OnDownload:
    """A function that prints a line when a download begins, and one every ten seconds.

    Args:
      console: where to.
      clock: the time in seconds.
    """
    last: tuple[float, int] | None = None  # the time of the last line, and the bytes it told

    def on_download(name: str, done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if last is not None and now - last[0] < _LINES_S:
            return
        line = f"downloading {name}: {format_size(done)} of {format_size(total)}"
        if last is not None and done > last[1]:
            speed = (done - last[1]) / (now - last[0])
            left_s = round((total - done) / speed)
            line += f", {format_size(round(speed))}/s, {left_s // 60}:{left_s % 60:02} left"
        console.print(line, soft_wrap=True, highlight=False, markup=False)
        last = now, done

    return on_download
