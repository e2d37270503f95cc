"""Weights are read straight into their shards: the bits of the whole, by no more bytes and memory
than a process's own parts.
"""

from __future__ import annotations

import functools
import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from safetensors.numpy import save_file

import flaxen
from flaxen.families import find_family
from flaxen.families.rules import Rules, Stack
from flaxen.families.tensors import GGUF, GGUF_INTERLEAVED, HF, matrix
from flaxen.kernels.backend import Backend
from flaxen.models.decoder import decoder
from flaxen.models.layout import param_sharding, param_shardings
from flaxen.models.model import Model, Params
from flaxen.sharding.parts import Box, box_of
from flaxen.sharding.placement import Placement
from flaxen.weights.checkpoint import open_checkpoint
from flaxen.weights.form import Form, num_bytes
from flaxen.weights.params import load_params
from flaxen.weights.rules import place_rules
from flaxen.weights.shards import read_parts
from flaxen.weights.sources import find_sources
from tests.mesh.meshes import placement
from tests.models.golden import CASES, GOLDENS, expected, logits_of
from tests.weights.adapters.made import random_adapter
from tests.weights.files import Kind, golden_metadata, golden_tensors, write_gguf
from tests.weights.test_rules import CONFIG, EXPERTS, FUSED, random_params, to_files

FLOAT32, BFLOAT16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
MESHES = ["tensor=2,fsdp=2", "tensor=4,data=2", "fsdp=8"]


def assert_placed(found: Params, whole: Params, model: Model, mesh: Placement) -> None:
    """The arrays of the whole model, laid over the mesh, to the bit."""
    expected = jax.device_put(whole, param_shardings(model.param_specs, mesh))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
        assert one.dtype == other.dtype
        for ours, theirs in zip(one.addressable_shards, other.addressable_shards, strict=True):
            assert (ours.device, ours.index) == (theirs.device, theirs.index)
            np.testing.assert_array_equal(np.asarray(ours.data), np.asarray(theirs.data))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("case", ["llama_default", "llama_tied_biases", "qwen3_biases_windows"])
def test_a_directory_is_read_into_its_shards(case: str, mesh: str) -> None:
    assert case in CASES
    checkpoint, on = open_checkpoint(GOLDENS / case), placement(mesh)
    found = checkpoint.load_params(BFLOAT16, placement=on)
    assert_placed(found, checkpoint.load_params(BFLOAT16), checkpoint.model, on)


@pytest.mark.parametrize("kind", [None, Kind.Q4_0, Kind.Q8_0])
def test_a_gguf_file_is_read_into_its_shards(tmp_path: Path, kind: Any) -> None:
    tensors: dict[str, Any] = golden_tensors("llama_default")
    kinds = {
        name: kind
        for name, value in tensors.items()
        if kind is not None and value.ndim == 2 and value.shape[1] % 32 == 0
    }
    path = write_gguf(tmp_path / "m.gguf", golden_metadata("llama_default"), tensors, kinds)
    checkpoint, on = open_checkpoint(path), placement("tensor=2,fsdp=2")
    found = checkpoint.load_params(FLOAT32, placement=on)
    assert_placed(found, checkpoint.load_params(FLOAT32), checkpoint.model, on)


@pytest.mark.parametrize("rules", [HF, GGUF, GGUF_INTERLEAVED, FUSED])
@pytest.mark.parametrize("mesh", MESHES)
def test_any_rule_is_read_into_its_shards(rules: Rules, mesh: str) -> None:
    model, on = decoder(CONFIG), placement(mesh)
    params = random_params(model.param_specs)
    files = to_files(rules, model.param_specs, params)
    found = find_sources(model.param_specs, rules, files, CONFIG.sizes, ignored=lambda _: False)
    form = Form(dtype=FLOAT32, placement=on)
    loaded = load_params(model.param_specs, found.params, form, round_to=None, on_progress=None)
    assert_placed(loaded, params, model, on)


def test_stacked_experts_are_read_into_their_shards() -> None:
    specs = {"layers": ({"w_up": EXPERTS},)}
    params = random_params(specs)
    rules = (matrix("w_up", "layers.{layer}.experts.{expert}.up", Stack()),)
    files = to_files(rules, specs, params)
    sources = find_sources(specs, rules, files, lambda _: {}, ignored=lambda _: False).params
    form = Form(dtype=FLOAT32, placement=placement("tensor=2,fsdp=4"))
    loaded = load_params(specs, sources, form, round_to=None, on_progress=None)
    (layer,), (given,) = loaded["layers"], params["layers"]
    assert layer["w_up"].sharding.shard_shape((3, 8, 6)) == (3, 2, 3)
    np.testing.assert_array_equal(layer["w_up"], given["w_up"])


def made_up(directory: Path, *, num_layers: int, model_dim: int, mlp_dim: int) -> Path:
    """A checkpoint of random float32 weights."""
    fields = json.loads((GOLDENS / "llama_default" / "config.json").read_text())
    fields |= {
        "hidden_size": model_dim, "intermediate_size": mlp_dim, "vocab_size": 1024,
        "num_hidden_layers": num_layers, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": model_dim // 16, "dtype": "float32",
    }  # fmt: skip
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(fields))
    tensors = {
        name: np.ones(shape, np.float32) for name, shape in shapes_in_files(directory).items()
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def shapes_in_files(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that a directory's configuration needs."""
    fields = json.loads((directory / "config.json").read_text())
    family = find_family(fields["architectures"][0])
    config = family.config_from_hf(fields)
    places = place_rules(family.hf_rules, decoder(config).param_specs, config.sizes)
    return {name: shape for place in places for name, shape in place.shapes.items()}


def read_so_far() -> int:
    """The bytes that this process has read from files."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def read_floats(stored: Any, start: int, stop: int) -> np.ndarray:
    rows: np.ndarray = stored.read(start, stop)
    return rows


@pytest.mark.parametrize("mesh", ["tensor=8", "fsdp=8", "fsdp=4,tensor=2"])
def test_a_process_reads_its_own_parts_alone(tmp_path: Path, mesh: str) -> None:
    path = made_up(tmp_path / "model", num_layers=2, model_dim=512, mlp_dim=1024)
    checkpoint, on = open_checkpoint(path), placement(mesh)
    own = set(on.mesh.devices.flat[:2])  # as if a process had these
    before, needed = read_so_far(), 0
    for source in checkpoint.sources.params:
        shape = source.spec.shape
        places = param_sharding(source.spec, on).devices_indices_map(shape)
        boxes: list[Box] = list(
            {box_of(index, shape) for device, index in places.items() if device in own}
        )
        parts = read_parts(source, boxes, dtype=FLOAT32, read=read_floats, num_values=1 << 17)
        needed += sum(part.nbytes for part in parts.values())
    read = read_so_far() - before
    assert needed < 0.3 * checkpoint.num_file_bytes
    assert read == pytest.approx(needed, rel=0.02)


def test_a_process_without_parts_reads_nothing() -> None:
    (source, *_) = open_checkpoint(GOLDENS / "qwen3_tied").sources.params
    assert read_parts(source, [], dtype=FLOAT32, read=read_floats, num_values=1) == {}


def test_the_host_holds_few_parameters_at_once(tmp_path: Path) -> None:
    path = made_up(tmp_path / "model", num_layers=8, model_dim=512, mlp_dim=1024)
    checkpoint, on = open_checkpoint(path), placement("tensor=4,fsdp=2")
    load = functools.partial(checkpoint.load_params, BFLOAT16, placement=on)
    load()  # JAX's own caches
    gc.collect()
    # Memory is counted anew at each step of progress: JAX keeps some parts as its devices' arrays
    # instead of copying them, so what is held at the end is partly the model itself.
    held, taken = 0, list[int]()

    def count(*_: object) -> None:
        nonlocal held
        now, peak = tracemalloc.get_traced_memory()
        taken.append(peak - held)
        held = now
        tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        params = load(count)
        count()
    finally:
        tracemalloc.stop()
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    piece = (1 << 17) * 4 * 2  # float32, and its own copy in the part's dtype
    assert len(taken) > 8
    assert 4 * (largest + piece) < total / 3
    assert max(taken) < 4 * (largest + piece)


def test_progress_counts_what_is_read() -> None:
    checkpoint = open_checkpoint(GOLDENS / "qwen3_tied")
    seen: list[tuple[int, int]] = []
    checkpoint.load_params(
        FLOAT32, lambda done, total: seen.append((done, total)), placement=placement("tensor=2")
    )
    assert seen[-1] == (checkpoint.num_file_bytes,) * 2


def test_the_bytes_of_one_device_are_known_before() -> None:
    checkpoint, on = open_checkpoint(GOLDENS / "qwen3_tied"), placement("tensor=2,fsdp=2")
    form = Form(dtype=BFLOAT16, placement=on)
    params = checkpoint.load_params(BFLOAT16, placement=on)
    first = on.mesh.devices.flat[0]
    held = [
        shard.data.nbytes
        for leaf in jax.tree.leaves(params)
        for shard in leaf.addressable_shards
        if shard.device == first
    ]
    assert num_bytes(checkpoint.model.param_specs, checkpoint.sources.params, form) == sum(held)


def test_packed_weights_are_of_one_device() -> None:
    with pytest.raises(ValueError, match="backend cpu computes on one device, and the mesh is ten"):
        Form(dtype=FLOAT32, backend=Backend.CPU, placement=placement("tensor=2"))


def test_load_lays_a_model_over_a_mesh() -> None:
    model, params = flaxen.load(GOLDENS / "qwen3_tied", mesh="tensor=2,fsdp=2")
    assert model.placement is not None
    assert params["layers"][0]["wq"].sharding.spec == PartitionSpec("fsdp", "tensor")
    tokens, logits = expected("qwen3_tied")
    np.testing.assert_allclose(logits_of(model, params, tokens), logits, atol=2e-4, rtol=2e-4)


def test_load_merges_an_adapter_on_a_mesh() -> None:
    adapter = random_adapter(flaxen.load(GOLDENS / "qwen3_tied")[0])
    _, whole = flaxen.load(GOLDENS / "qwen3_tied", adapter=adapter)
    model, params = flaxen.load(GOLDENS / "qwen3_tied", adapter=adapter, mesh="tensor=2")
    assert model.placement is not None
    assert_placed(params, whole, model, model.placement)


def test_load_puts_layers_on_their_stages() -> None:
    model, params = flaxen.load(GOLDENS / "qwen3_tied", mesh="pipeline=2,tensor=2")
    assert model.num_stages == 2
    assert params["layers"][0]["wq"].sharding.spec == PartitionSpec("pipeline", None, "tensor")
    tokens, logits = expected("qwen3_tied")
    found = jax.jit(functools.partial(flaxen.logits, model))(params, tokens[None])[0]
    np.testing.assert_allclose(found, logits, atol=2e-4, rtol=2e-4)
