"""`flaxen generate` with a tiny model on disk: whose sampling parameters hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flaxen.cli.main import main
from tests.test_llm import model

__all__ = ["model"]  # the fixture

QUICK = [
    "--max-model-len", "16", "--max-num-seqs", "4", "--max-num-batched-tokens", "16",
    "--compile-size", "16",
]  # fmt: skip


def test_the_models_own_sampling_holds_unless_the_user_says_otherwise(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "m"
    shutil.copytree(model, directory)
    (directory / "generation_config.json").write_text(json.dumps({"max_new_tokens": 3}))

    def said(*options: str) -> list[str]:
        """The lines on stderr, beside the answer."""
        assert main(["generate", str(directory), "-p", "one", *options, *QUICK]) == 0
        _, *notes = capsys.readouterr().err.splitlines()  # the first line says what computes
        return notes

    line = "sampling: max_tokens 3 by the model's generation_config.json"
    assert said() == [line, "[cut at --max-tokens 3]"]
    assert said("--max-tokens", "2") == ["[cut at --max-tokens 2]"]
    full = "[cut at the context's 16 tokens (--max-model-len)]"
    assert said("--generation-config", "vllm") == [full]
