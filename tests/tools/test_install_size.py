"""What `pip install .` brings: the libraries that flaxen asks for, and those that they ask for."""

from __future__ import annotations

import importlib.metadata
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# What only some need, or what something smaller does as well (docs/decisions/0254 and 0256).
NOT_WANTED = {
    "flax", "grpcio", "matplotlib", "orbax-checkpoint", "pandas", "pyarrow", "tensorflow",
    "tensorstore", "torch", "transformers",
}  # fmt: skip
MOST_BYTES = 670 * 10**6  # without bytecode and pip, which is 8 MB more
_JAX_ITSELF = {"jax", "jaxlib", "numpy", "scipy", "ml-dtypes", "opt-einsum"}
MOST_BYTES_BESIDE_JAX = 95 * 10**6


def closure(requirements: Iterable[str]) -> set[str]:
    """The names of the distributions that pip installs for requirements without extras."""
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found.add(name)
        asked = [Requirement(each) for each in importlib.metadata.requires(name) or ()]
        waiting += [(each, "") for each in asked]
        waiting += [(each, extra) for extra in requirement.extras for each in asked if each.marker]
    return found


def size(name: str) -> int:
    """The bytes of a distribution on the disk, without bytecode."""
    distribution = importlib.metadata.distribution(name)
    paths = [distribution.locate_file(each) for each in distribution.files or ()]
    return sum(
        os.stat(str(path)).st_blocks * 512
        for path in paths
        if not str(path).endswith(".pyc") and os.path.exists(str(path))
    )


def test_an_install_has_what_serving_and_training_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = closure(project["dependencies"])
    assert {"jax", "tokenizers", "fastapi", "optax"} <= names
    assert names & NOT_WANTED == set()
    sizes = {name: size(name) for name in names}
    largest = sorted(sizes.items(), key=lambda each: -each[1])[:15]
    assert sum(sizes.values()) < MOST_BYTES, largest
    beside = {name: each for name, each in sizes.items() if name not in _JAX_ITSELF}
    assert sum(beside.values()) < MOST_BYTES_BESIDE_JAX, largest
