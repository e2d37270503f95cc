"""Each row of the table of families from its directory to parameters and back, to the bit, also by
GGUF's names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxen.families import FAMILIES, find_family, hf_fields
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.file_tensors import file_tensors, rows_of_params
from flaxen.weights.gguf.metadata import extra_tensors, model_metadata
from flaxen.weights.huggingface.export import export_huggingface
from tests.extras import extra
from tests.models.family_table import NAMES, ROWS, row_of
from tests.models.family_table.checkpoint import made

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


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.gguf == "yes"])
def test_a_gguf_file_says_the_same(name: str) -> None:
    """Its tensors are those that llama.cpp's table of names has, and its metadata the model's."""
    source = open_checkpoint(made(row_of(name)).directory)
    specs, family = source.model.param_specs, source.family
    rows = rows_of_params(specs, source.load_params(FLOAT32))
    written = file_tensors(family.gguf_rules, specs, source.config.sizes, rows)
    stored = [*extra_tensors(source.config), *written]
    assert model_metadata(family, source.config, stored)  # read again, it is the same
    gguf: Any = extra("gguf")
    architecture = next(key for key, each in gguf.MODEL_ARCH_NAMES.items()
                        if each == family.gguf_architecture)  # fmt: skip
    names = gguf.get_tensor_name_map(architecture, len(source.config.layers))
    theirs = {
        names.get_name(each, (".weight", ".bias"))
        for each in load_file(made(row_of(name)).directory / "model.safetensors")
    }
    assert {each.name for each in written} == theirs


# Families with rows of their own to come.
_TO_COME = {
    "Glm4MoeForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "Lfm2ForCausalLM",
    "Mamba2ForCausalLM",
    "GptOssForCausalLM",
    "GraniteMoeForCausalLM",
    "GraniteMoeSharedForCausalLM",
    "Llama4ForCausalLM",
    "MixtralForCausalLM",
    "OlmoeForCausalLM",
    "Qwen2MoeForCausalLM",
    "Qwen3MoeForCausalLM",
}


def test_every_family_has_a_row() -> None:
    architectures = {find_family(row.model).architecture for row in ROWS}
    known = {family.architecture for family in FAMILIES.values()}
    assert known - _TO_COME <= architectures
