"""What the compiler for TPUs needs, which libtpu brings: it works on a machine without a TPU.

Loading it takes half a second. In CI it is installed; elsewhere `make EXTRAS=dev,tpu test` does it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxen.sharding.topologies import (
    COMPILE_ENVIRONMENT,
    compile_devices,
    find_target,
    has_compiler,
)
from tests.extras import IS_CI

_HAS_WHEEL = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture(scope="session", autouse=True)
def _compiler() -> Iterator[None]:
    """The environment for libtpu, which reads it when it is loaded, once in a process."""
    if not _HAS_WHEEL:
        pytest.skip("libtpu is there for Linux on x86-64 only")
    if not has_compiler() and not IS_CI:
        pytest.skip("libtpu is not installed: make EXTRAS=dev,tpu test")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in COMPILE_ENVIRONMENT.items():
            if name not in os.environ:
                patch.setenv(name, value)
        yield


@pytest.fixture
def compile_for() -> Callable[..., Any]:
    """compile_for(target, f, *arguments, **options of jit): what a device would run."""

    def compile_one(target: str, f: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        mesh = Mesh(np.array(compile_devices(find_target(target))[:1]), ("one",))
        place = NamedSharding(mesh, PartitionSpec())

        def placed(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        with jax.set_mesh(mesh):
            return jax.jit(f, **options).lower(*jax.tree.map(placed, arguments)).compile()

    return compile_one
