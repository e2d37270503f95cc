"""What a run says about its data before it begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxen.data.config import DataConfig
from flaxen.data.corpus import CorpusReport
from flaxen.data.iterate import Remaining
from flaxen.runs.plan import describe_plan
from flaxen.training.config import TrainConfig

REPORT = CorpusReport(num_records=32, num_bad=2, num_truncated=0, bad=("a:1: bad",))


def plan(left: Remaining | None, num_steps: int, **options: Any) -> str:
    data = DataConfig(files=(Path("a.jsonl"),), sequence_length=512, **options)
    config = TrainConfig(model="m", output_dir=Path("o"), data=data)
    return describe_plan(config, REPORT, left, num_steps)


def test_what_packing_makes_of_few_records_is_said() -> None:
    assert plan(Remaining(5, 2028, 2), 2, batch_size=4, epochs=2) == (
        "30 records x 2 epochs: 2,028 tokens in 5 rows of 512; with 4 rows a step that is 2 "
        "steps. These are few: more epochs or a smaller batch_size make more of them"
    )
    assert plan(Remaining(1, 20, 1), 1, batch_size=1) == (
        "30 records: 20 tokens in 1 row of 512; with 1 row a step that is 1 step. These are few: "
        "more epochs make more of them"
    )


def test_enough_steps_need_no_advice() -> None:
    assert plan(Remaining(90, 9000, 45), 45, batch_size=2).endswith("that is 45 steps")
    assert plan(None, 200, batch_size=4) == "30 records; 200 steps of 4 rows of 512 tokens"
