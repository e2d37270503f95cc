"""Programs for several devices are large: those of a file are not kept for the next."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    yield
    jax.clear_caches()
