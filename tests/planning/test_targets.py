"""Hardware by name, and meshes over it."""

from __future__ import annotations

import pytest

from flaxen.kernels.backend import Backend
from flaxen.planning.targets import check_mesh, find_hardware
from flaxen.sharding.shape import parse_mesh


@pytest.mark.parametrize(
    ("name", "num_devices", "backend"),
    [
        ("v6e-8", 8, Backend.TPU),
        ("v5p-8", 4, Backend.TPU),
        ("h100", 1, Backend.GPU),
        ("h200-4", 4, Backend.GPU),
        ("mi300x-8", 8, Backend.GPU),
    ],
)
def test_a_name_is_hardware(name: str, num_devices: int, backend: Backend) -> None:
    found = find_hardware(name)
    assert (found.name, found.num_devices, found.backend) == (name, num_devices, backend)
    assert (found.slice is not None) == (backend is Backend.TPU)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'b300' is not known: .* v6e, .* or GPUs, of a100, h100"):
        find_hardware("b300")
    with pytest.raises(ValueError, match="no slice 'v6e-7': name one of v6e-1"):
        find_hardware("v6e-7")


@pytest.mark.parametrize("name", ["h100-9", "h100-0", "h100-x", "h100-08"])
def test_a_number_of_gpus_that_no_machine_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no target '{name}': name 1 to 8 GPUs .* as h100-8"):
        find_hardware(name)


@pytest.mark.parametrize(
    ("mesh", "said"),
    [
        ("", "one device is not a mesh of 8 devices, which v6e-8 has: use --mesh tensor=8"),
        ("tensor=4", "the mesh tensor=4 is not of 8 devices, which v6e-8 has"),
    ],
)
def test_a_mesh_of_another_size_is_refused(mesh: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_mesh(parse_mesh(mesh), find_hardware("v6e-8"), parse_mesh("tensor=8"))
    check_mesh(parse_mesh("data=2,tensor=4"), find_hardware("v6e-8"), parse_mesh("tensor=8"))
