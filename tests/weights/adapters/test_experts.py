"""Adapters of experts: trained beside their stacks, in PEFT's files by expert, and merged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.execution.adapter_stack import AdapterStack
from flaxen.families import expert_tensors
from flaxen.kernels import cpu_library
from flaxen.kernels.backend import Backend
from flaxen.models.adapters import LoraConfig, adapter_shapes, lora_targets, with_adapters
from flaxen.scheduling.config import LoraLimits
from flaxen.training.lora import initial_adapters
from flaxen.weights.adapters.adapter import Adapter, merge_adapter
from flaxen.weights.adapters.modules import file_targets
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.models.golden import logits_of
from tests.models.test_expert_layers import TOKENS
from tests.models.tiny_experts import MODEL, params_for
from tests.weights.adapters.made import random_adapter

NAMED = replace(MODEL, module_rules=expert_tensors.QWEN)
CONFIG = LoraConfig(rank=3, alpha=6.0, targets=("wq", "w_experts_gate", "w_experts_down"))


def adapter() -> Adapter:
    rng = np.random.default_rng(0)

    def random(shape: tuple[int, ...]) -> np.ndarray:
        return (0.3 * rng.standard_normal(shape)).astype(np.float32)

    shapes = adapter_shapes(NAMED, CONFIG)["layers"]
    layers = tuple(
        {
            name: {part: random(shape) for part, shape in parts.items()}
            for name, parts in layer.items()
        }
        for layer in shapes
    )
    return Adapter(config=CONFIG, layers=layers)


def adapted(params: Any, given: Adapter) -> Any:
    stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], given.tree)
    ids = jnp.zeros((1, len(TOKENS)), jnp.int32)
    return with_adapters(params, stack, jnp.full(1, given.config.scale), ids)


def test_routers_are_no_targets_and_experts_are_named() -> None:
    assert "w_router" not in lora_targets(MODEL)
    assert not [name for name in lora_targets(MODEL) if "experts" in name]
    shapes = adapter_shapes(MODEL, CONFIG)["layers"]
    assert set(shapes[0]) == {"wq"}
    assert shapes[1]["w_experts_down"] == {"a": (5, 20, 3), "b": (5, 3, 24)}
    drawn = initial_adapters(MODEL, CONFIG, (1, 2))["layers"][1]["w_experts_gate"]
    assert drawn["a"].shape == (2, 5, 24, 3)
    assert float(jnp.abs(drawn["a"]).max()) <= 24**-0.5
    assert not jnp.any(drawn["b"])


@pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.CPU])
def test_beside_is_merged(backend: Backend) -> None:
    if backend is Backend.CPU and not cpu_library.is_built():
        pytest.skip("the library was not built")
    model, params, given = MODEL.on(backend), params_for(backend), adapter()
    beside = logits_of(model, adapted(params, given), TOKENS)
    merged = logits_of(model, merge_adapter(params, given), TOKENS)
    np.testing.assert_allclose(beside, merged, atol=1e-4)
    assert np.abs(beside - logits_of(model, params, TOKENS)).max() > 0.1


def test_a_file_has_a_module_for_each_expert(tmp_path: Path) -> None:
    given = adapter()
    save_adapter(tmp_path, given, model=NAMED)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    module = "base_model.model.model.layers.1.mlp.experts.3.gate_proj"
    assert tensors[f"{module}.lora_A.weight"].shape == (3, 24)
    assert tensors[f"{module}.lora_B.weight"].shape == (20, 3)
    found = load_adapter(tmp_path, NAMED)
    assert set(found.config.targets) == set(CONFIG.targets)
    for one, other in zip(found.layers, given.layers, strict=True):
        assert set(one) == set(other)
        for name, pair in one.items():
            np.testing.assert_array_equal(pair["a"], other[name]["a"])
            np.testing.assert_array_equal(pair["b"], other[name]["b"])


def test_adapters_beside_experts_are_written_and_read(tmp_path: Path) -> None:
    """With full names, and as PEFT's with transformers 5, which has no modules of experts."""
    given = random_adapter(NAMED, targets=file_targets(NAMED))
    assert any("w_down" in layer for layer in given.layers)
    save_adapter(tmp_path, given, model=NAMED)
    config = tmp_path / "adapter_config.json"
    fields = json.loads(config.read_text())
    assert all("layers." in name for name in fields["target_modules"])
    short = sorted({name.split(".")[-1] for name in fields["target_modules"]})
    for named in (fields["target_modules"], short):
        config.write_text(json.dumps(fields | {"target_modules": named}))
        found = load_adapter(tmp_path, NAMED)
        jax.tree.map(np.testing.assert_array_equal, found.layers, given.layers)


def test_what_can_not_be_done_is_refused(tmp_path: Path) -> None:
    given = adapter()
    with pytest.raises(ValueError, match="adapters of experts are not served beside their model"):
        AdapterStack(MODEL, LoraLimits(max_loras=1, max_lora_rank=8)).check(given)
    with pytest.raises(ValueError, match=r"the adapter has experts: give save_adapter\(..., model"):
        save_adapter(tmp_path, given)
    fused = replace(MODEL, module_rules=expert_tensors.GRANITE)
    with pytest.raises(ValueError, match="the model's files have all experts in one tensor"):
        save_adapter(tmp_path, given, model=fused)
    with pytest.raises(ValueError, match="and its configuration says wq: name all targets there"):
        Adapter(config=LoraConfig(rank=3, targets=("wq",)), layers=given.layers)
    bad = {"wq": {"a": np.zeros((4, 2), np.float32), "b": np.zeros((3, 4), np.float32)}}
    with pytest.raises(ValueError, match="or with one axis of experts in front"):
        Adapter(config=LoraConfig(rank=3, targets=("wq",)), layers=(bad,))


def test_routers_and_target_parameters_in_a_file_are_refused_by_name(tmp_path: Path) -> None:
    """PEFT adapts both; here routers never are, and each expert is a module."""
    save_adapter(tmp_path, adapter(), model=NAMED)
    config, weights = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    fields, tensors = json.loads(config.read_text()), load_file(weights)
    whole = {"target_parameters": ["mlp.experts.gate_up_proj"]}
    config.write_text(json.dumps(fields | whole))
    with pytest.raises(ValueError, match=r"target_parameters = \['mlp.experts.gate_up_proj'\] is "):
        load_adapter(tmp_path, NAMED)
    config.write_text(json.dumps(fields))
    router = "base_model.model.model.layers.1.mlp.gate.lora_{}.weight"
    pair = {
        router.format("A"): np.ones((3, 24), np.float32),
        router.format("B"): np.ones((5, 3), np.float32),
    }
    save_file(tensors | pair, weights)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.gate\.lora_A"):
        load_adapter(tmp_path, NAMED)
