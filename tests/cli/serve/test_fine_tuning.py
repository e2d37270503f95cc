"""The options of fine-tuning; what they wire is tested by tests/e2e/test_fine_tuning.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.main import main
from flaxen.cli.serve.fine_tuning import FineTuningOptions
from flaxen.job_routes.stores import StoresConfig, open_stores


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("--database-url", {"database_url": "sqlite://"}),
        ("--fine-tuning-share", {"fine_tuning_share": 0.5}),
        ("--max-file-size", {"max_file_bytes": 1}),
        ("--max-files-size", {"max_total_bytes": 1}),
    ],
)
def test_an_option_without_its_directory_is_refused(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{name} needs --data-dir"):
        FineTuningOptions(**change)
    assert FineTuningOptions(data_dir=Path("x"), **change)


@pytest.mark.parametrize("share", [0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"--fine-tuning-share must be .* got {share}"):
        FineTuningOptions(data_dir=Path("x"), fine_tuning_share=share)


def test_a_bad_option_does_not_wait_for_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no-such-model", "--fine-tuning-share", "2"]) == 2
    assert "--fine-tuning-share must be above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_directory_that_can_not_be_used_is_said_before_the_weights_are_read(
    tmp_path: Path,
) -> None:
    data, url = tmp_path / "data", f"sqlite:///{tmp_path}/other.db"
    nobody = "postgresql+psycopg://127.0.0.1:9/x"
    with open_stores(StoresConfig(data_dir=data)) as stores, stores.files.create() as writer:
        writer.write(b"{}")
        kept = stores.files.path(writer.commit("a.jsonl", "fine-tune")["id"])
    for options, message in (
        (["--data-dir", "/proc/nope"], "the data directory /proc/nope can't be used"),
        (["--data-dir", str(data), "--database-url", url], "lists none of them"),
        (["--data-dir", str(data), "--database-url", nobody], "x can't be used: connection"),
    ):
        found = subprocess.run(
            [sys.executable, "-m", "flaxen", "serve", "no-such-model", "--port", "0", *options],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (found.returncode, found.stdout) == (2, "")
        (line,) = found.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert kept.read_bytes() == b"{}"
