"""Hugging Face directories for PyTorch's bridge: each tensor has its place, or one line says why.

transformers alone would serve random numbers where a tensor is missing, and drop what has no place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flaxen.cli.main import main
from flaxen.definitions.torch.checkpoint import open_torch
from flaxen.kernels.choice import choose_backend
from tests.bridges.torch_models import make
from tests.bridges.words import save_tokenizer

pytestmark = pytest.mark.slow

Tensors = dict[str, torch.Tensor]
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete directory of a family that our own decoder does not know."""
    directory = tmp_path_factory.mktemp("whole")
    make("Olmo2").save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def change(directory: Path, how: Callable[[Tensors], Tensors]) -> None:
    path = directory / "model.safetensors"
    save_file({name: each.clone() for name, each in how(load_file(path)).items()}, path)


def configure(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def without(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: each for name, each in tensors.items() if name not in names}


def with_added(**tensors: torch.Tensor) -> Callable[[Tensors], Tensors]:
    """Sets tensors: of the first layer's queries, or by a whole name with "__" for each dot."""
    names = {
        key: f"{Q}.{key}" if key in ("weight", "bias", "weight_scale") else key.replace("__", ".")
        for key in tensors
    }
    return lambda held: {**held, **{names[key]: each for key, each in tensors.items()}}


def quantized(tensors: Tensors) -> Tensors:
    """The names and tensors with which GPTQ stores a weight."""
    packed = {
        f"{Q}.qweight": torch.zeros(8, 64, dtype=torch.int32),
        f"{Q}.scales": torch.ones(1, 64),
    }
    return {**without(f"{Q}.weight")(tensors), **packed}


WRONG_TENSORS: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "no norm": (without("model.norm.weight"), {}, r"missing from the files \(1\): model\.norm\."),
    "no lm_head": (without("lm_head.weight"), {}, r"missing from the files \(1\): lm_head\.weight"),
    "a layer too many in config.json": (
        dict, {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
        r"missing from the files \(11\): model\.layers\.2\..*, model.* and 8 more\. Download the",
    ),
    "a layer too few in config.json": (
        dict, {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
        r"without a place in the class \(11\): model\.layers\.1\..* and 8 more",
    ),
    "a prefix on every name": (
        lambda tensors: {f"module.{name}": each for name, each in tensors.items()}, {},
        r"missing .* \(25\): lm_head.*without a place .* \(25\).*begin with 'module\.', remove",
    ),
    "a bias without place": (
        with_added(bias=torch.zeros(64)), {},
        rf"without a place in the class \(1\): {Q}\.bias",
    ),
    "another shape": (
        with_added(model__norm__weight=torch.ones(63)), {},
        r"of another shape \(1\): model\.norm\.weight is \[63\] and should be \[64\]",
    ),
    "another size in config.json": (
        dict, {"intermediate_size": 96}, r"of another shape \(6\): .*\[64, 128\] .* \[64, 96\]",
    ),
    "a scale of eight bits": (
        with_added(weight_scale=torch.ones(1)), {},
        rf"without a place in the class \(1\): {Q}\.weight_scale",
    ),
    "GPTQ without quantization_config": (
        quantized, {},
        rf"missing from the files \(1\): {Q}\.weight; .* \(2\): {Q}\.qweight, {Q}\.scales\. "
        rf"{Q}\.qweight holds integers: if the weights are quantized, use the checkpoint before",
    ),
    "int8": (
        with_added(weight=torch.ones(64, 64, dtype=torch.int8)), {},
        rf"tensor {Q}\.weight has dtype I8, which is not supported.*before quantization",
    ),
    "uint8": (
        with_added(weight=torch.ones(64, 64, dtype=torch.uint8)), {},
        rf"Olmo2ForCausalLM's {Q}\.weight is of floating point, .*integers .*\({Q}\.weight is U8",
    ),
    "int32": (
        with_added(weight=torch.ones(64, 64, dtype=torch.int32)), {},
        rf"Olmo2ForCausalLM's {Q}\.weight is of floating point, .*integers .*\({Q}\.weight is I32",
    ),
    "integers without place": (
        with_added(zeros=torch.ones(64, dtype=torch.int32)), {},
        r"without a place in the class \(1\): zeros\. zeros holds integers: if the weights are",
    ),
    "fp8": (
        with_added(weight=torch.ones(64, 64).to(torch.float8_e4m3fn)),
        {}, rf"tensor {Q}\.weight has dtype F8_E4M3, which is not supported.*before quantization",
    ),
    "NaN": (
        with_added(weight=torch.full((64, 64), float("nan"))), {},
        rf"weights of Olmo2ForCausalLM give NaN or infinity at position 0: .*{Q}\.weight.* hold",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_tensors_that_are_not_those_of_the_class_are_refused_by_name(
    case: str, directory: Path
) -> None:
    how, fields, message = WRONG_TENSORS[case]
    change(directory, how)
    configure(directory, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        open_torch(directory, choose_backend())
    assert "\n" not in str(caught.value)


EXPERT = "model.layers.0.mlp.experts.1.up_proj.weight"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (without(EXPERT), rf"missing from the files \(1\): {EXPERT}"),
        (
            lambda tensors: {**tensors, EXPERT: torch.ones(3, 4)},
            rf"of another shape \(1\): {EXPERT} is \[3, 4\] and should be \[32, 64\]",
        ),
        (
            lambda tensors: {**tensors, EXPERT.replace("1.up", "4.up"): tensors[EXPERT]},
            r"without a place in the class \(1\): .*experts\.4\.up_proj",
        ),
        (
            lambda tensors: {**tensors, EXPERT: tensors[EXPERT].to(torch.uint8)},
            rf"experts\.gate_up_proj is of floating point, .*{EXPERT} is U8",
        ),
    ],
)  # fmt: skip
def test_one_of_several_experts_is_named(
    how: Callable[[Tensors], Tensors], message: str, tmp_path: Path
) -> None:
    make("Qwen3Moe").save_pretrained(tmp_path)
    change(tmp_path, how)
    with pytest.raises(ValueError, match=message):
        open_torch(tmp_path, choose_backend())


HARMLESS: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any]]] = {
    "no lm_head, and tied": (without("lm_head.weight"), {"tie_word_embeddings": True}),
    "names without model.": (
        lambda tensors: {name.removeprefix("model."): each for name, each in tensors.items()}, {},
    ),
    "a table of the rope": (with_added(model__rotary_emb__inv_freq=torch.zeros(8)), {}),
}  # fmt: skip


@pytest.mark.parametrize("case", HARMLESS)
def test_what_a_class_may_lack_or_ignore_still_loads(
    case: str, directory: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    how, fields = HARMLESS[case]
    change(directory, how)
    configure(directory, **fields)
    params = open_torch(directory, choose_backend()).params["params"]
    expected = load_file(whole / "model.safetensors")
    for name, each in params.items():
        np.testing.assert_array_equal(each, expected[name].numpy())
    assert capfd.readouterr().err == ""


def test_masks_that_old_checkpoints_hold_are_ignored(tmp_path: Path) -> None:
    make("GPTNeoX").save_pretrained(tmp_path)
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    change(tmp_path, lambda tensors: {
        **tensors,
        "gpt_neox.layers.0.attention.bias": mask,
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
    })  # fmt: skip
    assert open_torch(tmp_path, choose_backend()).model.vocab_size == 272


def test_pickles_are_never_read(directory: Path) -> None:
    weights = directory / "model.safetensors"
    torch.save(load_file(weights), directory / "pytorch_model.bin")
    assert open_torch(directory, choose_backend()).model.vocab_size == 272  # beside it
    weights.unlink()
    message = r"pytorch_model\.bin is there, but pickle files .* never read: convert them to safet"
    with pytest.raises(ValueError, match=message):
        open_torch(directory, choose_backend())
    (directory / "pytorch_model.bin").rename(directory / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": {"lm_head.weight": "pytorch_model-00001-of-00001.bin"}}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"00001\.bin is there, but pickle files"):
        open_torch(directory, choose_backend())
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"is truncated or damaged"):
        open_torch(directory, choose_backend())


def test_a_file_that_config_json_names_is_not_read(directory: Path) -> None:
    configure(directory, transformers_weights="pytorch_model.bin")
    with pytest.raises(ValueError, match=r"transformers_weights = 'pytorch_model\.bin' is not"):
        open_torch(directory, choose_backend())


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 538090408\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[:-10], r"model\.safetensors is truncated or damaged \(.*\): download"),
        (lambda data: data[:100], r"model\.safetensors is truncated or damaged"),
        (lambda data: b"", r"model\.safetensors is truncated or damaged"),
        (lambda data: LFS.encode(), r"model\.safetensors is a Git LFS pointer.*`git lfs pull`"),
    ],
)  # fmt: skip
def test_damaged_files_have_their_message(
    content: Callable[[bytes], bytes], message: str, directory: Path
) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        open_torch(directory, choose_backend())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "vit"}, "has no causal language model for model_type 'vit'"),
        ({"model_type": "llava"}, "has no causal language model for model_type 'llava'"),
        ({"model_type": "t5"}, "has no causal language model for model_type 't5'"),
        ({"model_type": "foo"}, "does not know model_type 'foo'. A newer transformers may"),
        ({"model_type": "foo", "auto_map": {}}, "does not know model_type 'foo'"),
        (
            {"model_type": "foo", "auto_map": {"AutoConfig": "x.X"}},
            r"Its own Python code \(auto_map\) is never run",
        ),
        ({"num_attention_heads": "x"}, "does not take this config.json for .*expected int"),
        ({"hidden_act": "nope"}, "can't make Olmo2ForCausalLM of these files: KeyError: 'nope'"),
    ],
)  # fmt: skip
def test_configurations_that_transformers_does_not_take(
    fields: dict[str, Any], message: str, directory: Path
) -> None:
    configure(directory, **fields)
    with pytest.raises(ValueError, match=message) as caught:
        open_torch(directory, choose_backend())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("impl", ["auto", "torch"])
def test_a_command_says_it_in_one_line(
    impl: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(directory, without("model.norm.weight"))
    assert main(["generate", str(directory), "--impl", impl, "--prompt", "a"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "model.norm.weight" in err
