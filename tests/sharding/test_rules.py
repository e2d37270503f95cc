"""What the rules divide, and what they leave whole."""

from __future__ import annotations

import pytest
from jax.sharding import PartitionSpec as P

from flaxen.sharding.mesh import make_mesh, replicas, shape_of
from flaxen.sharding.rules import partition
from flaxen.sharding.shape import parse_mesh

MESH = parse_mesh("fsdp=2,tensor=4")


def test_axes_are_divided_by_their_names() -> None:
    assert partition(("model", "mlp"), (64, 128), MESH) == P(("fsdp",), ("tensor",))
    assert partition(("mlp", None), (128, 3), MESH) == P(("tensor",), None)
    assert partition(("batch", "length"), (8, 16), MESH) == P(("fsdp",), None)


def test_a_head_stays_whole() -> None:
    assert partition((None, "kv_heads"), (64, 8 * 16), MESH, head_dim=16) == P(None, ("tensor",))
    assert partition((None, "kv_heads"), (64, 2 * 16), MESH, head_dim=16) == P(None, None)


def test_unequal_parts_are_whole_everywhere() -> None:
    assert partition(("vocab", "model"), (301, 63), MESH) == P(None, None)


def test_an_axis_of_the_mesh_divides_one_axis_of_an_array() -> None:
    assert partition(("heads", "mlp"), (8, 8), MESH) == P(("tensor",), None)


def test_a_mesh_has_replicas() -> None:
    mesh = make_mesh(parse_mesh("data=2,tensor=3"))
    parts = replicas(mesh)
    assert [shape_of(part) for part in parts] == [parse_mesh("tensor=3")] * 2
    found = [device for part in parts for device in part.devices.flat]
    assert found == list(mesh.devices.flat)


def test_too_few_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="the mesh tensor=64 needs 64 devices, and cpu has 8"):
        make_mesh(parse_mesh("tensor=64"))
