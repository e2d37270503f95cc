"""Modules of PyTorch: what was trained, and adapters, are served to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.models.adapters import lora_targets
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.bridges.training import assert_parity, needs_kernels, train_adapter, train_definition
from tests.extras import extra
from tests.weights.adapters.made import random_adapter

torch: Any = extra("torch")
from flaxen.bridges.torch.bridge import from_torch  # noqa: E402 (PyTorch may not be there)
from flaxen.bridges.torch.transformers import from_transformers  # noqa: E402
from tests.bridges.torch_models import Own, make  # noqa: E402

pytestmark = [pytest.mark.slow, needs_kernels]


def test_a_class_of_transformers() -> None:
    model, params = from_transformers(make("Llama"))
    state, losses = train_definition(model, params, 60)
    assert losses[-1] < 1 < 4 < losses[0]
    assert_parity(model, {**params, "params": state.params})


def test_an_adapter_beside_a_class_of_transformers(tmp_path: Path) -> None:
    model, params = from_transformers(make("Llama"))
    new = random_adapter(model, targets=lora_targets(model, "q_proj", "down_proj"), rank=4)
    adapter, losses = train_adapter(model, params, new.config, 10)
    assert losses[-1] < losses[0]
    save_adapter(tmp_path, adapter, model=model)
    assert_parity(model, params, load_adapter(tmp_path, model))


def test_a_module_of_ones_own() -> None:
    """Trained with dropout, and served without."""
    module = Own(dropout=0.1)
    model, params = from_torch(module, max_position=128)
    state, losses = train_definition(model, params, 100)
    assert losses[-1] < 0.7 * losses[0]
    assert not module.training
    assert_parity(model, {**params, "params": state.params})
