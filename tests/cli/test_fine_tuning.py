"""The options of fine-tuning; what they wire is tested by tests/e2e/test_fine_tuning.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.fine_tuning import FineTuningOptions
from flaxen.cli.main import main


def options(**changes: Any) -> FineTuningOptions:
    given: dict[str, Any] = {
        "data_dir": None,
        "database_url": None,
        "share": 0.2,
        "max_file_bytes": 1,
        "max_total_bytes": 1,
    }
    return FineTuningOptions(**given | changes)


def test_an_option_without_its_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="--database-url needs --data-dir"):
        options(database_url="sqlite://")


@pytest.mark.parametrize("share", [0, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"--fine-tuning-share must be .* got {share}"):
        options(data_dir=Path("x"), share=share)


def test_a_bad_option_does_not_wait_for_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "no-such-model", "--fine-tuning-share", "2"]) == 2
    assert "--fine-tuning-share must be above 0" in capsys.readouterr().err
