"""Each row of the table of families from its directory to parameters and back, to the bit, also by
GGUF's names; and its adapters.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.families import FAMILIES, Family, find_family, hf_fields
from flaxen.weights.adapters.modules import file_targets
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.file_tensors import file_tensors, rows_of_params
from flaxen.weights.gguf.metadata import extra_tensors, model_metadata
from flaxen.weights.huggingface.export import export_huggingface
from tests.extras import extra
from tests.models.family_table import NAMES, ROWS, row_of
from tests.models.family_table.checkpoint import made
from tests.weights.adapters.made import random_adapter
from tests.weights.files import write_gguf

FLOAT32 = jnp.dtype("float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    directory = made(row_of(name)).directory
    source = open_checkpoint(directory)
    export_huggingface(tmp_path / "out", source.family, source.config, source.load_params(FLOAT32))
    theirs, ours = (load_file(each / "model.safetensors") for each in (directory, tmp_path / "out"))
    assert ours.keys() == theirs.keys()
    for tensor, values in ours.items():
        np.testing.assert_array_equal(values, theirs[tensor], err_msg=tensor)
    again = open_checkpoint(tmp_path / "out")
    assert (again.family, again.config) == (source.family, source.config)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_comes_back(name: str) -> None:
    given = json.loads((made(row_of(name)).directory / "config.json").read_text())
    family = find_family(given["architectures"][0])
    config = family.config_from_hf(given)
    written = hf_fields(family, config)
    assert family.config_from_hf(json.loads(json.dumps(written))) == config
    # What is written means the same to transformers.
    transformers: Any = extra("transformers")
    config_type = getattr(transformers, row_of(name).model).config_class
    theirs = config_type(**written).to_dict()
    again = family.config_from_hf({**theirs, "architectures": given["architectures"]})
    assert again == config


@pytest.mark.parametrize("name", NAMES)
def test_adapters_come_back(tmp_path: Path, name: str) -> None:
    """As the same products: a module that joins several targets joins their ranks."""
    model = open_checkpoint(made(row_of(name)).directory).model
    given = random_adapter(model, targets=file_targets(model))
    save_adapter(tmp_path / "adapter", given, model=model)
    found = load_adapter(tmp_path / "adapter", model)
    for own, its in zip(given.layers, found.layers, strict=True):
        for target, pair in own.items():
            product = its[target]["a"] @ its[target]["b"] * found.config.scale
            expected = pair["a"] @ pair["b"] * given.config.scale
            np.testing.assert_allclose(product, expected, atol=1e-5, err_msg=target)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("qwen3_next_experts", "mtp.fc.weight"), ("deepseek_v3", "model.layers.2.eh_proj.weight")],
)
def test_layers_that_predict_further_tokens_are_not_read(
    tmp_path: Path, name: str, tensor: str
) -> None:
    source = made(row_of(name)).directory
    tensors = {**load_file(source / "model.safetensors"), tensor: np.ones((2, 2), np.float32)}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    jax.tree.map(
        np.testing.assert_array_equal,
        open_checkpoint(tmp_path).load_params(FLOAT32),
        open_checkpoint(source).load_params(FLOAT32),
    )


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.gguf is not None])
def test_a_gguf_file_comes_back(tmp_path: Path, name: str) -> None:
    """The file's tensors have the names of llama.cpp's table, and it is the same model."""
    directory = made(row_of(name).as_gguf()).directory
    source = open_checkpoint(directory)
    specs, family = source.model.param_specs, source.family
    rows = rows_of_params(specs, source.load_params(FLOAT32))
    written = file_tensors(family.gguf_rules, specs, source.config.sizes, rows)
    stored = [*extra_tensors(source.config), *written]
    metadata = model_metadata(family, source.config, stored)
    values = {each.name: each.read(0, each.shape[0]) for each in stored}
    again = open_checkpoint(write_gguf(tmp_path / "m.gguf", metadata, values))
    assert again.family.gguf_architecture == family.gguf_architecture
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
        again.load_params(FLOAT32),
        source.load_params(FLOAT32),
    )
    stems = {_stem(each) for each in values}
    kind, count = _architecture(family), len(source.config.layers)
    known = [gguf.TENSOR_NAMES[each] for each in gguf.MODEL_TENSORS[kind]]
    assert stems <= {name.format(bid=layer) for name in known for layer in range(count)}
    names = gguf.get_tensor_name_map(kind, count)
    found = {names.get_name(_stem(each)) for each in load_file(directory / "model.safetensors")}
    found = {each for each in found if each is not None and not each.endswith(_SPLIT)}
    assert found <= stems


# What llama.cpp's converter divides, or renames where there are no experts.
_SPLIT = ("attn_kv_b", "ffn_down_shexp", "ssm_in")


def _stem(name: str) -> str:
    """A tensor's name without what it is of its part."""
    return name.removesuffix(".weight").removesuffix(".bias").removesuffix("_bias")


@pytest.mark.parametrize(
    ("name", "prefix", "module"), [("gpt2", "transformer.", "h.0.attn"),
                                   ("gpt_neox", "", "gpt_neox.layers.0.attention")],
)  # fmt: skip
def test_published_files_have_masks_and_perhaps_no_prefix(
    tmp_path: Path, name: str, prefix: str, module: str
) -> None:
    """As those of GPT-2 and Pythia: what is computed is left out by its name."""
    directory = made(row_of(name)).directory
    source = open_checkpoint(directory)
    stored = load_file(directory / "model.safetensors")
    mask = np.tril(np.ones((1, 1, 8, 8), bool))
    masks = {f"{module}.bias": mask, f"{module}.masked_bias": np.array(-1e9, np.float32)}
    own = {tensor.removeprefix(prefix): values for tensor, values in stored.items()}
    save_file({**own, **masks}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    jax.tree.map(
        np.testing.assert_array_equal,
        open_checkpoint(tmp_path).load_params(FLOAT32),
        source.load_params(FLOAT32),
    )
    save_file({**own, f"{module}.mask": mask}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{module}.mask"):
        open_checkpoint(tmp_path)


def _architecture(family: Family) -> gguf.MODEL_ARCH:
    names = gguf.MODEL_ARCH_NAMES.items()
    return next(each for each, name in names if name == family.gguf_architecture)


def test_every_family_has_a_row() -> None:
    architectures = {find_family(row.model).architecture for row in ROWS}
    known = {family.architecture for family in FAMILIES.values()}
    assert known == architectures
