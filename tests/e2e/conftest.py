"""One server for all the end-to-end tests: it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compile_cache import shared_directory
from tests.e2e.serving import ONE_TWO, Server, serve


@pytest.fixture(scope="session")
def compile_cache() -> Path:
    """The servers share what they compile with all other tests, and with the next run."""
    return shared_directory()


@pytest.fixture(scope="session")
def running_server(
    compile_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log_file = tmp_path_factory.mktemp("server") / "log"
    # The goldens were computed so; other tests take what is fastest.
    exact = ("--dtype", "float32", "--quantization", "none")
    sizes = ("--max-model-len", "1024", "--max-num-seqs", "16")
    with serve(compile_cache, log_file, *exact, *sizes) as server:
        yield server


@pytest.fixture
def server(running_server: Server) -> Iterator[Server]:
    """The server; the test must leave nothing in it, and make it log nothing but requests."""
    num_logged = len(running_server.log_file.read_text())
    yield running_server
    running_server.wait_until_idle()
    lines = running_server.log_file.read_text()[num_logged:].splitlines()
    assert [line for line in lines if " INFO flaxen." not in line] == []


@pytest.fixture(scope="session")
def plain(running_server: Server) -> Any:
    """The greedy continuation of ONE_TWO, " four, five, six, seven, eight", a token a word."""
    return running_server.complete(ONE_TWO, max_tokens=9, logprobs=20, return_token_ids=True)
