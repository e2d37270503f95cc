"""The example of three networks of one's own, each for one epoch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.extras import extra

pytestmark = pytest.mark.slow  # it needs the tokenizer of the real model


def test_each_network_learns_and_answers(tmp_path: Path, capsys: Any) -> None:
    extra("flax")
    extra("torch")
    from examples.train_own import main

    main([], epochs=1, directory=tmp_path / "saved")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["flax", "torch", "jax"]
    for line in lines:
        found = re.search(r"loss (\S+) -> (\S+): four plus two is", line)
        assert found
        assert float(found[2]) < 0.8 * float(found[1])
    assert list((tmp_path / "saved").glob("*.safetensors"))
