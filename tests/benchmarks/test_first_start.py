"""How `benchmarks/first_start.py` reads a stream, and which environment it gives a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import first_start


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n', False),
        (b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n', True),
        (b'data: {"choices": [], "usage": {}}\n', False),
        (b"data: [DONE]\n", False),
        (b"\n", False),
    ],
)
def test_the_first_token_is_the_first_text(line: bytes, expected: bool) -> None:
    assert first_start._has_text(line) is expected


def test_a_process_has_a_directory_of_compiled_programs_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLAXEN_CACHE", "/shared")
    environment = first_start._environment(Path("/own"))
    assert environment["XDG_CACHE_HOME"] == "/own"
    assert not {"FLAXEN_CACHE", "JAX_COMPILATION_CACHE_DIR"} & set(environment)
