"""MODEL is completed by the names that find a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.cli.main import main
from flaxen.cli.model_names import complete_local, complete_model, complete_pulled


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("qwen-mine.gguf", "org/m-GGUF/m-Q8_0.gguf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"GGUF")
    monkeypatch.setenv("FLAXEN_MODELS_DIR", str(tmp_path))
    return tmp_path


def test_names_that_begin_so(models: Path) -> None:
    assert complete_model("qwen-") == ["qwen-mine"]
    assert {"qwen-mine", "qwen3-0.6b"} <= set(complete_model("qwen"))
    assert complete_local("org") == ["org/m-GGUF"]  # without a colon, where bash ends a word
    assert "qwen3-0.6b" not in complete_local("")
    assert "smollm2-135m" not in complete_pulled("smol")
    assert complete_pulled("smollm2-3") == ["smollm2-360m"]
    assert complete_model("./") == []  # a path, which the shell completes


def test_what_can_not_be_read_completes_nothing(models: Path) -> None:
    (models / "bad").mkdir()
    (models / "bad/config.json").write_text("{")
    assert complete_local("") == []


@pytest.mark.parametrize(
    ("words", "name"),
    [("serve qwen-", "qwen-mine"), ("rm qwen-", "qwen-mine"), ("chat org", "org/m")],
)
def test_a_shell_asks_for_names(
    models: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    name: str,
) -> None:
    monkeypatch.setenv("COMP_WORDS", f"flaxen {words}")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setenv("_FLAXEN_COMPLETE", "complete_bash")
    main([])
    assert capsys.readouterr().out.startswith(name)
