"""PEFT's ways to say which modules are adapted, and how strongly: each is honoured or refused."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.weights.adapters.adapter import Adapter, merge_adapter
from flaxen.weights.adapters.patterns import match_patterns
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from tests.engine.tiny import MODEL, PARAMS
from tests.weights.adapters.made import random_adapter

PREFIX = "base_model.model."
Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj" for i in (0, 1))
V0, V1 = (f"model.layers.{i}.self_attn.v_proj" for i in (0, 1))
DOWN0 = "model.layers.0.mlp.down_proj"
PLACES = {Q0: (0, "wq"), Q1: (1, "wq"), V0: (0, "wv"), V1: (1, "wv"), DOWN0: (0, "w_down")}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", random_adapter(MODEL), "org/base")
    return tmp_path / "adapter"


def change(directory: Path, held: Collection[str], **fields: Any) -> None:
    """Sets fields of the configuration, and keeps the tensors of these modules only."""
    path = directory / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    kept = {
        name: each
        for name, each in tensors.items()
        if any(name.startswith(f"{PREFIX}{module}.") for module in held)
    }
    save_file(kept, directory / ADAPTER_WEIGHTS)


def adapted(adapter: Adapter) -> set[str]:
    """The modules of PLACES that an adapter changes; no other may be changed."""
    changed = {
        (index, target)
        for index, layer in enumerate(adapter.layers)
        for target, pair in layer.items()
        if (pair["a"] @ pair["b"]).any()
    }
    assert changed <= set(PLACES.values())
    return {module for module, place in PLACES.items() if place in changed}


@pytest.mark.parametrize(
    ("held", "fields"),
    [
        ((Q0, Q1, V0, V1), {"target_modules": r".*\.(q_proj|v_proj)"}),
        ((Q0, Q1, V0, V1), {"target_modules": r"^(?!.*(k|o|up|gate|down)_proj).*"}),
        ((Q0,), {"target_modules": r"model\.layers\.0\..*q_proj"}),
        ((Q1, V0), {"target_modules": rf"{Q1}|{V0}"}),
        ((Q0, V0), {"target_modules": r".*(q|v)_proj", "exclude_modules": r".*\.1\..*"}),
        ((Q1,), {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
        ((Q1,), {"target_modules": ["q_proj"], "layers_to_transform": 1}),
        ((Q0, V0), {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0, 7]}),
        (
            (Q1,),
            {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        ),
        (
            (Q1,),
            {
                "target_modules": ["q_proj"], "layers_to_transform": [1],
                "layers_pattern": ["h", "l.*s"],
            },
        ),
        ((Q0, Q1), {"target_modules": ["q_proj"], "layers_to_transform": []}),
        ((Q0, V0), {"target_modules": "all-linear", "layers_to_transform": 0}),
        (
            (Q0, Q1, V1),
            {"target_modules": "all-linear", "exclude_modules": r".*\.0\..*(k|v|o)_proj"},
        ),
        (
            (Q0, Q1, V0),
            {"target_modules": [Q0, Q1, "0.self_attn.v_proj"], "layers_to_transform": [0]},
        ),
        ((Q0, V1), {"target_modules": [Q0, V1]}),
        ((V0, V1), {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["q_proj"]}),
        ((Q0, DOWN0), {"target_modules": ["0.self_attn.q_proj", "layers.0.mlp.down_proj"]}),
    ],
)  # fmt: skip
def test_what_a_configuration_names_is_adapted(
    directory: Path, held: tuple[str, ...], fields: dict[str, Any]
) -> None:
    full = load_adapter(directory, MODEL)
    change(directory, held, **fields)
    found = load_adapter(directory, MODEL)
    assert adapted(found) == set(held)
    for module in held:
        index, target = PLACES[module]
        for part in ("a", "b"):
            np.testing.assert_array_equal(
                found.layers[index][target][part], full.layers[index][target][part]
            )


@pytest.mark.parametrize(
    ("held", "fields", "message"),
    [
        ((Q0,), {"target_modules": r".*q_proj"}, r"q_proj', and .* holds no tensor of model\.la"),
        ((Q0, V0), {"target_modules": r".*0.*q_proj"}, "v_proj, which target_modules lacks"),
        ((Q0,), {"target_modules": r".*\.0\.v_proj"}, "matches none of the modules that can be"),
        ((Q0,), {"target_modules": "q_proj"}, "matches none of the modules"),  # the whole name
        ((Q0,), {"target_modules": r".*v_proj"}, "v_proj', of which .* holds no tensor"),
        ((Q0,), {"target_modules": "(q_proj"}, "target_modules has a pattern that is not valid"),
        (
            (Q0,),
            {"target_modules": ".*q_proj", "layers_to_transform": [0]},
            "layers_to_transform can't be used beside a target_modules that is a pattern",
        ),
        (
            (Q0,),
            {"target_modules": ["q_proj"], "layers_to_transform": [1]},
            "'q_proj', of which .* holds no tensor",
        ),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "layers_to_transform": [1]},
            "holds tensors of model.layers.0.self_attn.q_proj, which target_modules lacks",
        ),
        (
            (Q0,),
            {"target_modules": ["q_proj"], "layers_to_transform": [5]},
            "holds tensors of model.layers.0.self_attn.q_proj, which target_modules lacks",
        ),
        (
            (Q0,),
            {"target_modules": ["q_proj"], "layers_to_transform": ["0"]},
            r"layers_to_transform must be a layer's number or a list, got \['0'\]",
        ),
        (
            (Q0,),
            {"target_modules": ["q_proj"], "layers_pattern": "layers"},
            "layers_pattern = 'layers' means nothing without layers_to_transform",
        ),
        (
            (Q0,),
            {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": [3]},
            r"layers_pattern must be a name or a list of names, got \[3\]",
        ),
        ((Q0,), {"exclude_modules": 3}, "exclude_modules must be a list of names or a pattern"),
        ((), {"target_modules": []}, "target_modules names no module: the adapter adapts nothing"),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": "4"}},
            "rank_pattern must be a whole number, got '4'",
        ),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "rank_pattern": ["q_proj"]},
            "rank_pattern must be an object of patterns, got",
        ),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "alpha_pattern": {"q_proj": -1}},
            "LoRA's alpha must be above 0, got -1 in alpha_pattern",
        ),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "rank_pattern": {"(": 4}},
            "rank_pattern has a pattern that is not valid",
        ),
        (
            (Q0, Q1),
            {"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}},
            r"lora_A\.weight has shape \[3, 48\], but .* rank need \[4, 48\]",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(
    directory: Path, held: tuple[str, ...], fields: dict[str, Any], message: str
) -> None:
    change(directory, held, **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(directory, MODEL)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_modules_may_have_ranks_and_alphas_of_their_own(directory: Path, use_rslora: bool) -> None:
    fields = {
        "target_modules": ["q_proj", "v_proj", "down_proj"], "use_rslora": use_rslora,
        "r": 2, "lora_alpha": 5.0,
        "rank_pattern": {"q_proj": 4, r"layers\.1\.self_attn\.v_proj": 1},
        "alpha_pattern": {"v_proj": 7.0, "proj": 3.0},
        "layers_to_transform": [0, 1],
    }  # fmt: skip
    # The first pattern that is the end of a module's path counts: "proj" is no end of "q_proj".
    strengths = {
        "wq": [(4, 5.0), (4, 5.0)], "wv": [(2, 7.0), (1, 7.0)], "w_down": [(2, 5.0), (2, 5.0)],
    }  # fmt: skip
    names = {"wq": "self_attn.q_proj", "wv": "self_attn.v_proj", "w_down": "mlp.down_proj"}
    rng = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    deltas = {}
    for target, layers in strengths.items():
        for index, (rank, alpha) in enumerate(layers):
            inputs, outputs = PARAMS["layers"][index][target].shape
            a = rng.normal(size=(rank, inputs)).astype(np.float32)
            b = rng.normal(size=(outputs, rank)).astype(np.float32)
            module = f"{PREFIX}model.layers.{index}.{names[target]}"
            tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            scale = alpha / (np.sqrt(rank) if use_rslora else rank)
            deltas[target, index] = scale * (b @ a).T
    change(directory, (), **fields)
    save_file(tensors, directory / ADAPTER_WEIGHTS)
    adapter = load_adapter(directory, MODEL)
    assert (adapter.config.rank, adapter.config.alpha) == (4, 5.0)
    merged = merge_adapter(PARAMS, adapter)
    for (target, index), delta in deltas.items():
        found = np.asarray(merged["layers"][index][target])
        expected = np.asarray(PARAMS["layers"][index][target]) + delta
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match="r is 4, and at most 3 is allowed here: raise max_lora_ran"
    ):
        load_adapter(directory, MODEL, max_rank=3)
    save_adapter(directory.parent / "again", adapter)  # one rank and one alpha, the same function
    again = load_adapter(directory.parent / "again", MODEL)
    np.testing.assert_array_equal(again.layers[1]["wv"]["b"], adapter.layers[1]["wv"]["b"])


def test_a_pattern_that_would_take_for_ever_ends() -> None:
    start = time.monotonic()
    message = r"matching the pattern of target_modules took longer than 0\.3 s: list the modules'"
    with pytest.raises(ValueError, match=message):
        match_patterns("target_modules", "whole", ["(a+)+b"], ["a" * 60], timeout_s=0.3)
    assert time.monotonic() - start < 5
