"""The adapters of a model that is served; what they answer is tested by tests/e2e."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.scheduling.config import LoraLimits
from flaxen.serving.adapters import ServedAdapters


def test_an_adapter_may_not_have_the_base_models_name(tmp_path: Path) -> None:
    model: Any = None  # not reached
    engine: Any = None
    adapters = ServedAdapters(limits=LoraLimits(), at_start=(("base", tmp_path),))
    with pytest.raises(ValueError, match="can't be called 'base', which is its base model's"):
        adapters.load(engine, model, ("base",))


def test_clients_load_nothing_without_a_directory() -> None:
    model: Any = None
    assert ServedAdapters(limits=LoraLimits()).files(model) is None
