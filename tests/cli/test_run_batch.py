"""`flaxen run-batch` over a tiny model, and what it refuses before it reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.main import main
from tests.e2e.tiny_model import write_tiny_model


def line(custom_id: str, url: str, **body: Any) -> str:
    fields = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(fields) + "\n"


@pytest.mark.slow
def test_requests_are_answered_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = tmp_path / "in.jsonl"
    asked.write_text(
        line("a", "/v1/completions", prompt="Hi", max_tokens=3, ignore_eos=True)
        + line("b", "/v1/chat/completions", messages=[])
        + line("c", "/v1/completions", prompt=["x", "y"], max_tokens=1, ignore_eos=True)
    )
    model, out = write_tiny_model(tmp_path / "model"), tmp_path / "out.jsonl"
    asks = ["-i", str(asked), "-o", str(out), str(model), "--max-num-seqs", "4"]
    assert main(["run-batch", *asks]) == 0
    results = [json.loads(each) for each in out.read_text().splitlines()]
    assert [each["custom_id"] for each in results] == ["a", "b", "c"]
    assert [each["response"]["status_code"] for each in results] == [200, 400, 200]
    first, _, last = [each["response"]["body"] for each in results]
    assert first["usage"]["completion_tokens"] == 3
    assert len(last["choices"]) == 2
    assert "3 requests were answered, 1 with an error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no requests"),
        (line("a", "/v1/other"), "line 1: url must be"),
        ("\n" + line("a", "/v1/completions", stream=True), "line 2: body.stream must be false"),
    ],
)
def test_a_bad_file_is_refused_before_the_model_is_read(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = tmp_path / "in.jsonl"
    asked.write_text(text)
    assert main(["run-batch", "-i", str(asked), "-o", str(tmp_path / "out"), "no-model"]) == 2
    assert named in capsys.readouterr().err
