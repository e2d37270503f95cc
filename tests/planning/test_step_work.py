"""What a step reads, multiplies and sends, by hand for the tiny model."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from flaxen.execution.shapes import Shape
from flaxen.kernels.backend import Backend
from flaxen.models.cache import Full, Sliding
from flaxen.models.model import Model
from flaxen.planning.collectives import Collective
from flaxen.planning.params import device_bytes, param_cost, param_shapes, requested_layouts
from flaxen.planning.roofline import Work
from flaxen.planning.step_work import Load, met_keys, step_work
from flaxen.sharding.mesh import mesh_without_devices
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import parse_mesh
from tests.engine.tiny import MODEL, MODEL_CONFIG

BFLOAT16 = jnp.dtype("bfloat16")
D, F, V, L, H = 48, 96, 300, 2, 16
MATRICES = 2 * D * 6 * H + 2 * D * 2 * H + 3 * D * F  # of a layer, with 6 heads and 2 KV heads
NORMS = 2 * D


def model(mesh: str) -> Model:
    placement = Placement(mesh_without_devices(parse_mesh(mesh)))
    return MODEL.on(Backend.TPU, placement)


def work(mesh: str, num_seqs: int, new_tokens: int, context: int) -> Work:
    shape = Shape(num_tokens=num_seqs * new_tokens, num_seqs=num_seqs)
    load = Load(shape=shape, num_seqs=num_seqs, new_tokens=new_tokens, context=context)
    on_mesh = model(mesh)
    shapes = param_shapes(on_mesh, BFLOAT16)
    return step_work(on_mesh, shapes, load, BFLOAT16.itemsize, cache_itemsize=BFLOAT16.itemsize)


def test_parameters_are_divided() -> None:
    assert MODEL_CONFIG.tied_embeddings
    for mesh, parts in (("", 1), ("tensor=2", 2)):
        shapes = param_shapes(model(mesh), BFLOAT16)
        cost = param_cost(MODEL.param_specs, shapes)
        assert cost.layer_values == L * MATRICES // parts
        assert cost.unembed_values == V * D // parts
        norms = L * NORMS + D
        assert cost.read_bytes == 2 * (L * MATRICES // parts + V * D // parts + norms)
        assert device_bytes(shapes) == cost.read_bytes


def test_a_decode_step() -> None:
    found = work("", num_seqs=4, new_tokens=1, context=100)
    of_token = 2 * 2 * H * 2  # bytes in a layer
    assert found.cache_bytes == 4 * (101 + 24 + 1) * of_token  # one layer sees a window of 24
    products = 4 * (L * MATRICES + V * D)
    scores = 4 * 6 * H * 4 * (100 + 24)
    assert found.num_operations == 2 * products + scores
    assert found.other_bytes == 2 * 4 * V * 4
    assert found.collectives == ()


def test_on_a_mesh_each_device_has_its_part() -> None:
    whole = work("", num_seqs=4, new_tokens=1, context=100)
    part = work("tensor=2", num_seqs=4, new_tokens=1, context=100)
    assert part.cache_bytes == whole.cache_bytes // 2
    assert part.num_operations == whole.num_operations / 2
    sums = 2 * L * 4 + 2  # bytes of each number: float32 in the layers, bfloat16 of the embedding
    assert part.collectives == (
        Collective(kind="all-reduce", num_devices=2, count=5, num_bytes=4 * D * sums),
    )


def test_kv_heads_that_are_copied_are_read_by_each() -> None:
    whole = work("", num_seqs=4, new_tokens=1, context=100)
    assert work("tensor=6", 4, 1, 100).cache_bytes == whole.cache_bytes // 2


@pytest.mark.parametrize("window", [1, 3, 10, 12, 50])
@pytest.mark.parametrize(("new_tokens", "context"), [(1, 1), (1, 10), (10, 10), (7, 12)])
def test_keys_are_counted_one_by_one(window: int, new_tokens: int, context: int) -> None:
    seen = [
        [key for key in range(position + 1) if key > position - window]
        for position in range(context - new_tokens, context)
    ]
    spec = Sliding(num_kv_heads=1, head_dim=2, window=window)
    keys = {key for each in seen for key in each}
    assert met_keys(spec, new_tokens, context) == (len(keys), sum(map(len, seen)))


def test_all_keys_are_met() -> None:
    assert met_keys(Full(num_kv_heads=1, head_dim=2), 3, 5) == (5, 3 + 4 + 5)


def test_a_quantized_weight_says_where_it_is() -> None:
    """As `linear` needs it: a kernel runs on each device's own part."""
    on_mesh = model("tensor=2")
    shapes = param_shapes(on_mesh, BFLOAT16, requested_layouts(on_mesh, "int8"))
    layer = shapes["layers"][0]
    found = {name: (layer[name].placement, layer[name].divided) for name in ("w_up", "w_down")}
    mesh = on_mesh.placement
    assert found == {"w_up": (mesh, (None, "tensor")), "w_down": (mesh, ("tensor", None))}
