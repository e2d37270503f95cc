"""A mesh's shape as text, and what is refused."""

from __future__ import annotations

import pytest

from flaxen.sharding.shape import MeshShape, parse_mesh


def test_a_shape_is_read() -> None:
    assert parse_mesh("tensor=4, data=2") == MeshShape(tensor=4, data=2)
    assert parse_mesh("") == MeshShape()
    assert parse_mesh("tensor=4,data=2").num_devices == 8
    assert str(parse_mesh("tensor=4,data=2")) == "data=2,tensor=4"
    assert str(MeshShape()) == "one device"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=2", "the mesh axis 'model' is not known: use data, fsdp"),
        ("tensor", "the mesh axis tensor needs a number of devices, for example tensor=2"),
        ("tensor=0", "the mesh axis tensor needs a number of devices"),
        ("tensor=-1", "the mesh axis tensor needs a number of devices"),
        ("tensor=2,tensor=2", "the mesh axis tensor is given twice"),
    ],
)
def test_another_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_mesh(text)


def test_an_axis_has_one_size() -> None:
    assert MeshShape().with_axis("tensor", 2) == MeshShape(tensor=2)
    assert MeshShape(tensor=2).with_axis("tensor", None) == MeshShape(tensor=2)
    with pytest.raises(ValueError, match="the mesh has tensor=2, and tensor=4 was asked for too"):
        MeshShape(tensor=2).with_axis("tensor", 4)
    with pytest.raises(ValueError, match="the mesh axis data must have at least 1 device, got 0"):
        MeshShape(data=0)
