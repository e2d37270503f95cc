"""`flaxen route train`: what it prints of a head, and what it refuses; train-a-head.md runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flaxen.cli.route.train import describe
from flaxen.learned_signals.head import Head
from tests.cli.route.files import run

REPORT = {
    "examples": {"fitted": 50, "calibration": 10, "held out": 12},
    "accuracy": 0.9167,
    "calibration": {
        "curve": [
            {"probability": 0.65, "right": 0.5, "texts": 2},
            {"probability": 0.97, "right": 1.0, "texts": 10},
        ],
        "mean_error": 0.05,
    },
    "labels": {
        "bill": {"texts": 12, "recall": 0.75, "false_alarms": None},
        "bug": {"texts": 0, "recall": None, "false_alarms": 0.0833},
    },
}


def test_a_report_says_what_a_head_is_worth() -> None:
    head = Head(
        task="classifier",
        labels=("bill", "bug"),
        weights=np.zeros((2, 3), np.float32),
        bias=np.zeros(2, np.float32),
        anchors=np.zeros((4, 3), np.float32),
        temperature=1.25,
        thresholds={"bill": 0.4, "bug": 0.617},
        report=REPORT,
    )
    assert describe(head).splitlines() == [
        "classifier: 50 fitted, 10 calibration, 12 held out",
        "accuracy 91.7%, temperature 1.25",
        "",
        "  label                       texts  threshold  recall  false alarms",
        "  bill                           12      0.400   75.0%             -",
        "  bug                             0      0.617       -          8.3%",
        "",
        "  probability  right  texts  (they differ by 0.050 in the mean)",
        "         0.65   0.50      2",
        "         0.97   1.00     10",
    ]


def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task, message in (
        ("topic", "the task 'topic' is unknown: use one of domain"),
        ("pii", "no templates for the task pii"),
    ):
        code, lines = run(capsys, "train", task, "-o", tmp_path / "head")
        assert code == 2
        assert message in " ".join(lines)
    assert list(tmp_path.iterdir()) == []
