"""Each step of a tensor rule, and what a model asks of its rules: read and write are inverses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxen.families import FAMILIES
from flaxen.families.rules import (
    ByGroup,
    Concat,
    Interleave,
    NegatedExp,
    PlusOne,
    Regroup,
    Rules,
    Split,
    Stack,
    Step,
    TensorRule,
    as_is,
    matrix,
    with_rules,
)
from flaxen.families.tensors import GGUF, GGUF_INTERLEAVED, HF
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.packed import unpack
from flaxen.models.decoder import decoder
from flaxen.models.model import Params
from flaxen.models.param_spec import ParamSpec
from flaxen.tensors.packing.layout import Layout, WeightRows
from flaxen.tensors.tensor import QuantizedRows, StoredTensor
from flaxen.tensors.views import in_memory
from flaxen.weights.form import Form
from flaxen.weights.params import load_params
from flaxen.weights.rules import place_rules, read_tensors, scopes, write_tensors
from flaxen.weights.sources import find_sources
from tools.decoders import uniform_decoder

SIZES = {"heads": 4, "kv_heads": 2, "head": 6}
NUMBERS = np.random.default_rng(0)


def random(*shape: int) -> np.ndarray:
    return NUMBERS.normal(size=shape).astype(np.float32)


def whole(tensor: StoredTensor) -> np.ndarray:
    return tensor.read(0, tensor.shape[0])


def read(steps: Sequence[Step], *arrays: np.ndarray) -> list[np.ndarray]:
    tensors = [in_memory(f"t{i}", each) for i, each in enumerate(arrays)]
    found = read_tensors(steps, tensors, SIZES)
    assert all(whole(each).shape == each.shape for each in found)
    return list(map(whole, found))


def write(steps: Sequence[Step], *arrays: np.ndarray) -> list[np.ndarray]:
    params = [in_memory(f"p{i}", each) for i, each in enumerate(arrays)]
    found = write_tensors(steps, params, SIZES)
    assert all(whole(each).shape == each.shape for each in found)
    return list(map(whole, found))


def assert_equal(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


# Steps, and the shapes of the tensors in a file that they take.
STEPS: list[tuple[tuple[Step, ...], list[tuple[int, ...]]]] = [
    ((), [(6, 5)]),
    ((Split((1, 1)),), [(8, 3)]),
    ((Split(("heads", "kv_heads", "kv_heads")),), [(48, 5)]),
    ((Split(("heads", "kv_heads", "kv_heads")),), [(48,)]),
    ((Split(("heads", "kv_heads", "kv_heads"), groups="kv_heads"),), [(48, 5)]),
    ((Split((1, 2), axis=1),), [(4, 6, 3)]),
    ((Split((2, 1), axis=2),), [(4, 5, 6)]),
    ((Concat(("heads", "kv_heads")),), [(12, 5), (6, 5)]),
    ((Concat((1, 2, 3), axis=1),), [(4, 2), (4, 4), (4, 6)]),
    ((Stack(),), [(4, 3)] * 5),
    ((Interleave("head"),), [(24, 5)]),
    ((Interleave("head"),), [(12,)]),
    ((Split(("heads", "kv_heads", "kv_heads")), Interleave("head")), [(48, 5)]),
    ((Stack(), Split((1, 1), axis=1)), [(8, 3)] * 3),
    ((Concat((1, 1)), Interleave("head"), Split((1, 3))), [(12, 5), (12, 5)]),
    ((ByGroup("kv_heads"),), [(2, 7)]),
    ((Regroup(("heads", ("heads", "kv_heads"), "kv_heads"), (2, 1), 2),), [(24, 5), (4, 5)]),
]


@pytest.mark.parametrize(("steps", "shapes"), STEPS)
def test_read_and_write_are_inverses(
    steps: tuple[Step, ...], shapes: list[tuple[int, ...]]
) -> None:
    tensors = [random(*shape) for shape in shapes]
    params = read(steps, *tensors)
    assert_equal(write(steps, *params), tensors)
    others = [random(*each.shape) for each in params]
    assert_equal(read(steps, *write(steps, *others)), others)


@pytest.mark.parametrize(("steps", "shapes"), STEPS)
def test_pieces_are_parts_of_the_whole(
    steps: tuple[Step, ...], shapes: list[tuple[int, ...]]
) -> None:
    tensors = [in_memory(f"t{i}", random(*shape)) for i, shape in enumerate(shapes)]
    for param in read_tensors(steps, tensors, SIZES):
        rows = whole(param)
        for start in range(param.shape[0]):
            for stop in range(start + 1, param.shape[0] + 1):
                np.testing.assert_array_equal(param.read(start, stop), rows[start:stop])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 3))
def test_any_shares_and_groups(shares: list[int], unit: int, groups: int) -> None:
    step = Split(tuple(shares), groups=groups)
    tensor = random(sum(shares) * unit * groups, 2)
    parts = read([step], tensor)
    assert [part.shape[0] for part in parts] == [share * unit * groups for share in shares]
    assert_equal(write([step], *parts), [tensor])
    concat = Concat(tuple(shares))
    (side_by_side,) = read([concat], *parts)
    np.testing.assert_array_equal(side_by_side, np.concatenate(parts))
    assert_equal(write([concat], side_by_side), parts)


def test_plus_one_is_taken_off_and_put_on() -> None:
    given = np.array([0.5, 1.0, 1.25], np.float32)
    (param,) = read((PlusOne(),), given)
    assert param.tolist() == [-0.5, 0, 0.25]
    assert_equal(write((PlusOne(),), param), [given])


def test_a_decay_is_the_exponential_with_a_minus() -> None:
    (param,) = read((NegatedExp(),), np.array([-1.0, -np.e], np.float32))
    np.testing.assert_allclose(param, [0, 1], atol=1e-7)
    (tensor,) = write((NegatedExp(),), np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose(tensor, [-1, -np.e], rtol=1e-7)
    with pytest.raises(ValueError, match=r"a decay must be below 0, got 0\.5: a damaged file"):
        read((NegatedExp(),), np.array([-1.0, 0.5], np.float32))


def test_parts_of_groups_are_regrouped() -> None:
    a, b, c = random(4, 5), random(8, 5), random(4, 5)
    step = Regroup((1, ("kv_heads",), 1), (2, 1), 2)
    (param,) = read((step,), np.concatenate([a, b]), c)
    np.testing.assert_array_equal(param, np.concatenate([a[:2], b[:4], c[:2], a[2:], b[4:], c[2:]]))


def test_what_each_step_does() -> None:
    fused = random(48, 5)
    q, k, v = read([Split(("heads", "kv_heads", "kv_heads"))], fused)
    assert_equal([q, k, v], [fused[:24], fused[24:36], fused[36:]])
    by_group = fused.reshape(2, 4, 6, 5)  # two groups of two query heads, a key and a value head
    q, k, v = read([Split((4, 2, 2), groups=2)], fused)
    assert_equal([q], [by_group[:, :2].reshape(24, 5)])
    assert_equal([k, v], [by_group[:, i].reshape(12, 5) for i in (2, 3)])
    heads = random(4, 2, 3, 5)  # heads, halves, pairs
    turned = heads.swapaxes(1, 2).reshape(24, 5)
    assert_equal(read([Interleave("head")], turned), [heads.reshape(24, 5)])
    experts = random(3, 8, 2)
    assert_equal(read([Stack()], *experts), [experts])
    gates, ups = read([Stack(), Split((1, 1), axis=1)], *experts)
    assert_equal([gates, ups], [experts[:, :4], experts[:, 4:]])


def quantized(name: str, rows: WeightRows) -> StoredTensor:
    """A tensor of eight-bit numbers with a scale a row."""
    assert rows.scales is not None
    scales = rows.scales

    def read(start: int, stop: int) -> np.ndarray:
        values: np.ndarray = rows.data[start:stop].astype(np.float32) * scales[start:stop]
        return values

    def stored(start: int, stop: int) -> WeightRows:
        return WeightRows(rows.data[start:stop], scales[start:stop])

    layout = Layout(format="int8", group=rows.data.shape[1], scale_dtype=np.dtype(np.float32))
    return StoredTensor(
        name=name,
        shape=rows.data.shape,
        dtype="Q8",
        num_bytes=rows.data.nbytes + scales.nbytes,
        read=read,
        quantized=QuantizedRows(layout=layout, read=stored),
    )


@pytest.mark.parametrize(("steps", "shapes"), [each for each in STEPS if len(each[1][0]) == 2])
def test_steps_along_rows_keep_quantized_rows(
    steps: tuple[Step, ...], shapes: list[tuple[int, int]]
) -> None:
    tensors = [
        quantized(
            f"t{i}", WeightRows(NUMBERS.integers(-128, 128, shape, np.int8), random(shape[0], 1))
        )
        for i, shape in enumerate(shapes)
    ]
    by_rows = not any(
        isinstance(step, Stack | ByGroup) or getattr(step, "axis", 0) for step in steps
    )
    for param in read_tensors(steps, tensors, SIZES):
        assert (param.quantized is not None) == by_rows
        if param.quantized is None:
            continue
        for start, stop in ((0, param.shape[0]), (1, 5)):
            rows = param.quantized.read(start, stop)
            assert rows.scales is not None
            np.testing.assert_array_equal(rows.data * rows.scales, param.read(start, stop))


CONFIG = uniform_decoder(
    vocab_size=40, model_dim=32, mlp_dim=48, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8,
    biases=("wq", "wk", "wv"), qk_norm=True,
)  # fmt: skip
FUSED = with_rules(
    HF,
    TensorRule(
        params=("wq", "wk", "wv"),
        tensors=("model.layers.{layer}.wqkv",),
        steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads"), groups="num_kv_heads"),),
        transposed=True,
    ),
    TensorRule(
        params=("bq", "bk", "bv"),
        tensors=("model.layers.{layer}.bqkv",),
        steps=(Split(("num_heads", "num_kv_heads", "num_kv_heads")),),
    ),
    # A parameter of two tensors, and one that lies in the file as the decoder has it.
    TensorRule(
        params=("w_up",),
        tensors=("model.layers.{layer}.up.0", "model.layers.{layer}.up.1"),
        steps=(Concat((1, 2)),),
        transposed=True,
    ),
    as_is("w_down", "model.layers.{layer}.down"),
    as_is("w_gate", "model.layers.{layer}.gate"),
)


def random_params(specs: Any) -> Params:
    if isinstance(specs, ParamSpec):
        return random(*specs.shape)
    if isinstance(specs, tuple):
        return tuple(map(random_params, specs))
    return {name: random_params(each) for name, each in specs.items()}


def to_files(rules: Rules, specs: Any, params: Params) -> dict[str, StoredTensor]:
    """What a file of these parameters holds."""
    parts = dict(scopes(params))
    files: dict[str, StoredTensor] = {}
    for place in place_rules(rules, specs, CONFIG.sizes):
        own = [parts[place.layer][name] for name in place.rule.params]
        rows = [each.swapaxes(-1, -2) if place.rule.transposed else each for each in own]
        made = write_tensors(place.rule.steps, [in_memory("", each) for each in rows], place.sizes)
        for (name, shape), tensor in zip(place.shapes.items(), made, strict=True):
            assert tensor.shape == shape
            files[name] = in_memory(name, whole(tensor))
    return files


@pytest.mark.parametrize("rules", [HF, GGUF, GGUF_INTERLEAVED, FUSED])
def test_parameters_come_back_plain_and_packed(rules: Rules) -> None:
    specs = decoder(CONFIG).param_specs
    params = random_params(specs)
    files = to_files(rules, specs, params)
    found = find_sources(specs, rules, files, CONFIG.sizes, ignored=lambda _: False)
    assert found.tensors == files
    for backend in (Backend.REFERENCE, Backend.CPU):
        form = Form(dtype=np.dtype(np.float32), backend=backend)
        loaded = load_params(specs, found.params, form, round_to=None, on_progress=None)
        for (_, ours), (_, theirs) in zip(scopes(loaded), scopes(params), strict=True):
            assert ours.keys() == theirs.keys()
            for name, leaf in ours.items():
                values = leaf
                if backend.packs_weights and theirs[name].ndim > 1:
                    is_table = name in ("embed", "unembed")
                    values = unpack(leaf).T if is_table else unpack(leaf)
                np.testing.assert_array_equal(values, theirs[name], err_msg=name)


EXPERTS = ParamSpec(shape=(3, 8, 6), axes=("experts", "model", "mlp"), role="experts")


def test_experts_are_stacked_from_their_files() -> None:
    specs = {"layers": ({"w_up": EXPERTS}, {"w_up": EXPERTS})}
    rules = (matrix("w_up", "layers.{layer}.experts.{expert}.up", Stack()),)
    params = random_params(specs)
    files = to_files(rules, specs, params)
    assert [*files] == [f"layers.{i}.experts.{e}.up" for i in (0, 1) for e in (0, 1, 2)]
    np.testing.assert_array_equal(
        whole(files["layers.1.experts.2.up"]), params["layers"][1]["w_up"][2].T
    )
    found = find_sources(specs, rules, files, lambda layer: {}, ignored=lambda _: False)
    form = Form(dtype=np.dtype(np.float32), backend=Backend.CPU)  # a stack of experts is not packed
    loaded = load_params(specs, found.params, form, round_to=None, on_progress=None)
    assert_equal([each["w_up"] for each in loaded["layers"]],
                 [each["w_up"] for each in params["layers"]])  # fmt: skip
    del files["layers.1.experts.2.up"]
    with pytest.raises(ValueError, match=r"tensor layers\.1\.experts\.2\.up is missing"):
        find_sources(specs, rules, files, lambda layer: {}, ignored=lambda _: False)


def test_a_fused_tensor_of_another_shape_is_named_with_the_one_it_needs() -> None:
    specs = decoder(CONFIG).param_specs
    files = to_files(FUSED, specs, random_params(specs))
    name = "model.layers.1.wqkv"
    files[name] = in_memory(name, random(63, 32))
    with pytest.raises(ValueError, match=r"wqkv has shape \[63, 32\], but .* needs \[64, 32\]"):
        find_sources(specs, FUSED, files, CONFIG.sizes, ignored=lambda _: False)


@pytest.mark.parametrize(
    ("rules", "param"),
    [
        (tuple(rule for rule in HF if "wo" not in rule.params), "wo"),
        ((*HF, matrix("wo", "another")), "wo"),
        (with_rules(HF, TensorRule(params=("bv", "bo"), tensors=("b",))), "bo"),
    ],
)
def test_rules_that_do_not_cover_the_model(rules: Rules, param: str) -> None:
    with pytest.raises(ValueError, match=f"differ in the parameter {param}: each parameter needs"):
        place_rules(rules, decoder(CONFIG).param_specs, CONFIG.sizes)


@pytest.mark.parametrize("family", {id(each): each for each in FAMILIES.values()}.values())
def test_no_family_has_two_rules_for_a_parameter(family: Any) -> None:
    for rules in (family.hf_rules, family.gguf_rules):
        params = [param for rule in rules for param in rule.params]
        assert len(params) == len({*params})
