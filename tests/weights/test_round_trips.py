"""What each family inherits: from a directory or a GGUF file to parameters and back, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flaxen.families import find_family, hf_fields
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.file_tensors import file_tensors, rows_of_params
from flaxen.weights.huggingface.export import export_huggingface
from tests.models.golden import CASES, GOLDENS
from tests.weights.files import golden_tensors

FLOAT32 = jnp.dtype("float32")


@pytest.mark.parametrize("case", CASES)
def test_a_directory_comes_back_to_the_bit(tmp_path: Path, case: str) -> None:
    source = open_checkpoint(GOLDENS / case)
    params = source.load_params(FLOAT32)
    export_huggingface(tmp_path / "out", source.family, source.config, params)
    theirs = load_file(GOLDENS / case / "model.safetensors")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_parameters_come_back_to_the_bit(tmp_path: Path, case: str) -> None:
    source = open_checkpoint(GOLDENS / case)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: rng.normal(size=spec.shape).astype(np.float32), source.model.param_specs
    )
    export_huggingface(tmp_path / "out", source.family, source.config, params)
    again = open_checkpoint(tmp_path / "out")
    assert (again.family, again.config) == (source.family, source.config)
    jax.tree.map(np.testing.assert_array_equal, again.load_params(FLOAT32), params)


@pytest.mark.parametrize("case", CASES)
def test_gguf_rules_write_what_the_converter_does(case: str) -> None:
    source = open_checkpoint(GOLDENS / case)
    specs = source.model.param_specs
    rows = rows_of_params(specs, source.load_params(FLOAT32))
    written = file_tensors(source.family.gguf_rules, specs, source.config.sizes, rows)
    ours = {tensor.name: tensor.read(0, tensor.shape[0]) for tensor in written}
    theirs = golden_tensors(case)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


# Fields that transformers writes and that change no logit.
BOOKKEEPING = {
    "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "pad_token_id", "pretraining_tp", "residual_dropout", "transformers_version", "use_cache",
}  # fmt: skip
NO_WINDOW = {"layer_types", "max_window_layers", "sliding_window"}


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_comes_back(case: str) -> None:
    given = json.loads((GOLDENS / case / "config.json").read_text())
    family = find_family(given["architectures"][0])
    config = family.config_from_hf(given)
    written = hf_fields(family, config)
    assert family.config_from_hf(written) == config
    # We write the older spelling of rope.
    rope = {"rope_theta": written.pop("rope_theta"), **written.pop("rope_scaling", {})}
    theirs = given.pop("rope_parameters")
    assert {name: rope.get(name, "default") for name in theirs} == theirs
    assert {name: written[name] for name in given.keys() & written.keys()} == {
        name: given[name] for name in given.keys() & written.keys()
    }
    left_out = NO_WINDOW if given.get("use_sliding_window") is False else set()
    assert given.keys() - written.keys() <= BOOKKEEPING | left_out
