"""PEFT adapter directories: what we write we read, and what we don't support is refused by name."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.families.rules import Interleave, Split, TensorRule, matrix, with_rules
from flaxen.families.tensors import HF
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.models.adapters import LORA_TARGETS, LoraConfig
from flaxen.weights.adapters.adapter import Adapter, check_adapter, from_stack, merge_adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.engine.tiny import MODEL, PARAMS, pack_params
from tests.models.golden import GOLDENS
from tests.weights.adapters.made import random_adapter

FIRST = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", random_adapter(MODEL), "org/base")
    return tmp_path / "adapter"


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(directory: Path, changes: dict[str, np.ndarray | None]) -> None:
    """Sets tensors; None drops one."""
    held: dict[str, Any] = {**load_file(directory / ADAPTER_WEIGHTS), **changes}
    save_file({k: v for k, v in held.items() if v is not None}, directory / ADAPTER_WEIGHTS)


@pytest.mark.parametrize("targets", [LORA_TARGETS, ("wq", "wv"), ("w_down",)])
def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path, targets: tuple[str, ...]) -> None:
    adapter = random_adapter(MODEL, targets=targets, use_rslora=True)
    save_adapter(tmp_path / "a", adapter, "org/base")
    loaded = load_adapter(tmp_path / "a", MODEL)
    assert loaded.config == adapter.config
    jax.tree.map(np.testing.assert_array_equal, loaded.layers, adapter.layers)
    assert loaded.num_bytes == adapter.num_bytes > 0


def test_files_are_as_peft_names_them(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    fields = json.loads((directory / ADAPTER_CONFIG).read_text())
    assert fields["base_model_name_or_path"] == "org/base"
    assert (fields["r"], fields["lora_alpha"], fields["peft_type"]) == (3, 6.0, "LORA")
    assert "q_proj" in fields["target_modules"]
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    assert len(tensors) == 2 * 2 * 7
    assert tensors[f"{FIRST}.lora_A.weight"].shape == (3, 48)
    assert tensors[f"{FIRST}.lora_B.weight"].shape == (96, 3)


FUSED = replace(
    MODEL,
    module_rules=with_rules(
        HF,
        TensorRule(
            params=("wq", "wk", "wv"),
            tensors=("model.layers.{layer}.self_attn.qkv.weight",),
            steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads"), groups="num_kv_heads"),),
            transposed=True,
        ),
        matrix("wo", "model.layers.{layer}.self_attn.out.weight", Interleave("head_dim")),
    ),
)


@pytest.mark.parametrize("targets", [("wq", "wk", "wv", "wo"), ("wk",), ("wo", "w_up")])
def test_adapters_of_fused_and_reordered_weights_are_the_same_function(
    tmp_path: Path, targets: tuple[str, ...]
) -> None:
    adapter = random_adapter(MODEL, targets=targets)
    save_adapter(tmp_path / "a", adapter, model=FUSED)
    names = load_file(tmp_path / "a" / ADAPTER_WEIGHTS)
    assert any("self_attn.qkv.lora_A" in name for name in names) == ("wk" in targets)
    assert not any(f"{name}_proj" in each for name in "qkvo" for each in names)
    loaded = load_adapter(tmp_path / "a", FUSED)
    for mine, its in zip(adapter.layers, loaded.layers, strict=True):
        for target, pair in mine.items():
            product = its[target]["a"] @ its[target]["b"] * loaded.config.scale
            expected = pair["a"] @ pair["b"] * adapter.config.scale
            np.testing.assert_allclose(product, expected, atol=1e-5)
        for target in its.keys() - mine.keys():  # in the same module
            assert not (its[target]["a"] @ its[target]["b"]).any()


def test_rows_of_a_fused_module_are_the_weights(tmp_path: Path) -> None:
    """A module's adapter changes the rows that the file's weight has for the target."""
    adapter = random_adapter(MODEL, targets=("wq",))
    save_adapter(tmp_path / "a", adapter, model=FUSED)
    stored = load_file(tmp_path / "a" / ADAPTER_WEIGHTS)
    b = stored["base_model.model.model.layers.0.self_attn.qkv.lora_B.weight"]
    # Each of the two kv heads has its three query heads, its key and its value, of 16 rows.
    is_query = np.tile(np.repeat([True, False, False], [48, 16, 16]), 2)
    np.testing.assert_array_equal(b[is_query], adapter.layers[0]["wq"]["b"].T)
    assert not b[~is_query].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported: only LORA"),
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"bias": "all"}, "bias = 'all' is not supported"),
        ({"lora_bias": True}, "lora_bias = True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is not supported"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True is not supported"),
        ({"loftq_config": {"loftq_bits": 4}}, "loftq_config = .* is not supported"),
        ({"from_the_future": 1}, "from_the_future = 1 is not supported"),
        ({"init_lora_weights": "pissa"}, "'pissa' is not supported, as it also changes the base"),
        ({"target_modules": 7}, "must be a list of names, a pattern or all-linear, got 7"),
        ({"target_modules": ["embed_tokens"]}, "'embed_tokens', which can't be adapted here: onl"),
        ({"target_modules": ["q_proj"]}, r"of model\.layers\.0\.mlp\.down_proj, which target_mod"),
        ({"target_modules": ["q_proj"] * 15}, "has 15 names, and the model 14 linear weights"),
        ({"r": "3"}, "r must be a whole number, got '3'"),
        ({"r": 0}, "rank must be at least 1, got 0"),
        ({"r": 4}, r"lora_A\.weight has shape \[3, 48\], but .* need \[4, 48\]"),
        ({"lora_alpha": None}, "lora_alpha must be a number, got None"),
        ({"lora_alpha": -1}, "alpha must be above 0, got -1"),
        ({"use_rslora": 2}, "use_rslora must be true or false, got 2"),
    ],
)
def test_configurations_that_are_refused(
    directory: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(directory, **fields)
    with pytest.raises(ValueError, match=message):
        load_adapter(directory, MODEL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{FIRST}.lora_A.weight": None}, r"q_proj\.lora_A\.weight is missing: adapter_con"),
        (
            {FIRST.replace(".0.", ".1.") + ".lora_B.weight": None},
            r"layers\.1\.self_attn\.q_proj\.lora_B\.weight is missing",
        ),
        (
            {f"{FIRST}.lora_magnitude_vector": np.ones(96, np.float32)},
            r"q_proj\.lora_magnitude_vector has no place: only LoRA of the layers' linear weights",
        ),
        (
            {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((3, 9), np.float32)},
            "embed_tokens.lora_embedding_A has no place",
        ),
        (
            {f"{FIRST}.lora_A.weight": np.ones((3, 47), np.float32)},
            r"lora_A\.weight has shape \[3, 47\], but .* \[3, 48\]",
        ),
        (
            {f"{FIRST}.lora_B.weight": np.full((96, 3), np.nan, np.float32)},
            r"lora_B\.weight has values that are not finite",
        ),
        ({f"{FIRST}.lora_A.weight": np.ones((3, 48), np.int8)}, "has dtype I8, which is not"),
    ],
)
def test_tensors_that_are_refused(
    directory: Path, changes: dict[str, np.ndarray | None], message: str
) -> None:
    change_tensors(directory, changes)
    with pytest.raises(ValueError, match=message):
        load_adapter(directory, MODEL)


def test_named_targets_without_tensors_are_refused(tmp_path: Path) -> None:
    save_adapter(tmp_path / "a", random_adapter(MODEL, targets=("wq",)))
    change_config(tmp_path / "a", target_modules=["q_proj", "v_proj"])
    with pytest.raises(ValueError, match=r"'v_proj', of which adapter_model\.safetensors holds no"):
        load_adapter(tmp_path / "a", MODEL)


def test_the_rank_can_be_limited(directory: Path) -> None:
    assert load_adapter(directory, MODEL, max_rank=3).config.rank == 3
    with pytest.raises(ValueError, match="r is 3, and at most 2 is allowed here"):
        load_adapter(directory, MODEL, max_rank=2)


def test_half_precision_adapters_become_float32(directory: Path) -> None:
    name = f"{FIRST}.lora_A.weight"
    half = load_file(directory / ADAPTER_WEIGHTS)[name].astype(np.float16)
    change_tensors(directory, {name: half})
    loaded = load_adapter(directory, MODEL).layers[0]["wq"]["a"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, half.T.astype(np.float32))


def test_files_that_are_missing_or_damaged(directory: Path) -> None:
    (directory / ADAPTER_WEIGHTS).rename(directory / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is there, but pickle files can run"):
        load_adapter(directory, MODEL)
    (directory / "adapter_model.bin").unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors does not exist: .* no comp"):
        load_adapter(directory, MODEL)
    (directory / ADAPTER_WEIGHTS).write_bytes(b"\x80\x02pickle")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is truncated or damaged"):
        load_adapter(directory, MODEL)
    (directory / ADAPTER_CONFIG).write_text("[" * 2_000_000)
    with pytest.raises(ValueError, match=r"has 2000000 bytes, over 1048576: it is no adapter's"):
        load_adapter(directory, MODEL)
    with pytest.raises(
        ValueError, match=r"adapter_config\.json does not exist: \S+ is no PEFT adapt"
    ):
        load_adapter(directory / "nothing", MODEL)


def test_an_adapter_is_replaced_but_nothing_else(directory: Path) -> None:
    save_adapter(directory, random_adapter(MODEL, seed=1, rank=2))
    assert load_adapter(directory, MODEL).config.rank == 2
    (directory / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"already holds thesis\.tex, which would be lost"):
        save_adapter(directory, random_adapter(MODEL))
    assert load_adapter(directory, MODEL).config.rank == 2
    assert [path.name for path in directory.parent.iterdir()] == ["adapter"]
    with pytest.raises(ValueError, match="is a file: give the name of a directory"):
        save_adapter(directory / ADAPTER_CONFIG, random_adapter(MODEL))


def test_an_adapter_of_another_model_is_refused() -> None:
    other = open_checkpoint(GOLDENS / "llama_default").model
    with pytest.raises(ValueError, match=r"layer 0, w_down: the adapter has .* and the model n"):
        check_adapter(random_adapter(MODEL), other)
    three = open_checkpoint(GOLDENS / "qwen2_windows").model
    with pytest.raises(ValueError, match="the adapter has 2 layers and the model 3"):
        check_adapter(random_adapter(MODEL), three)
    check_adapter(random_adapter(MODEL), MODEL)


def test_adapters_are_checked_when_they_are_made() -> None:
    config = LoraConfig(rank=2, targets=("wq",))
    a, b = np.ones((4, 2), np.float32), np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match="layer 0 of the adapter has wk, and its configuration"):
        Adapter(config=config, layers=({"wk": {"a": a, "b": b}},))
    with pytest.raises(ValueError, match="layer 0, wq: adapters are float32, got a float64"):
        Adapter(config=config, layers=({"wq": {"a": a.astype(np.float64), "b": b}},))
    with pytest.raises(ValueError, match=r"a must be \[in, 2\] and b \[2, out\] .* got \[4, 2\]"):
        Adapter(config=config, layers=({"wq": {"a": a, "b": b.T}},))


def test_adapters_of_a_stack_come_apart() -> None:
    both = [random_adapter(MODEL, seed=seed) for seed in (0, 1)]
    stack = jax.tree.map(lambda *each: np.stack(each), *[each.tree for each in both])
    for index, one in enumerate(both):
        found = from_stack(one.config, stack, index)
        jax.tree.map(np.testing.assert_array_equal, found.tree, one.tree)


def test_merging_adds_the_scaled_product() -> None:
    adapter = random_adapter(MODEL, targets=("wq",))
    merged = merge_adapter(PARAMS, adapter)
    pair = adapter.layers[1]["wq"]
    expected = np.asarray(PARAMS["layers"][1]["wq"]) + 2.0 * pair["a"] @ pair["b"]
    np.testing.assert_allclose(merged["layers"][1]["wq"], expected, rtol=1e-6, atol=1e-6)
    assert merged["layers"][1]["wk"] is PARAMS["layers"][1]["wk"]
    packed = merge_adapter(pack_params(PARAMS), adapter)
    jax.tree.map(np.testing.assert_array_equal, packed, pack_params(merged))


def test_merging_into_quantized_weights_is_refused() -> None:
    packed = pack_params(PARAMS)
    first = packed["layers"][0]
    quantized = dataclasses.replace(first["wq"], format="int8", scales=np.ones((1, 1, 16)))
    params = {**packed, "layers": ({**first, "wq": quantized}, *packed["layers"][1:])}
    with pytest.raises(ValueError, match=r"wq is quantized \(int8\), so an adapter can't be merge"):
        merge_adapter(params, random_adapter(MODEL))


def test_tensors_that_are_all_named_otherwise(directory: Path) -> None:
    held = load_file(directory / ADAPTER_WEIGHTS)
    other = {name.replace(".weight", ".default.weight"): each for name, each in held.items()}
    save_file(other, directory / ADAPTER_WEIGHTS)
    with pytest.raises(
        ValueError,
        match=r"no tensor belongs to a module of this model: the first is \S+lora_A\.default\.weigh"
        rf"t', and a name that fits is '{FIRST}\.lora_A\.weight'\. The adapter is another model's",
    ):
        load_adapter(directory, MODEL)
