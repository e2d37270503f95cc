"""Pages that a mesh divides leave it whole, and come back to the bit."""

from __future__ import annotations

from tests.execution.test_page_copies import check
from tests.mesh.meshes import on_mesh
from tests.mesh.test_pipeline import SMALL


def test_pages_on_a_mesh_come_back_to_the_bit() -> None:
    check(on_mesh("tensor=2"), "float32")


def test_pages_in_pipeline_stages_come_back_to_the_bit() -> None:
    check(on_mesh("pipeline=2,tensor=2", SMALL), "float32")
