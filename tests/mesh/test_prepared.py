"""What an engine can't be made of, on several processes."""

from __future__ import annotations

import jax
import pytest

from flaxen.prepared import _placements
from flaxen.sharding.processes import Processes
from flaxen.sharding.shape import MeshShape


def test_data_replicas_stay_in_one_process() -> None:
    shape = MeshShape(data=2, tensor=jax.device_count() // 2)
    assert [each.shape.data for each in _placements(shape, Processes()) if each] == [1, 1]
    with pytest.raises(ValueError, match="has data replicas, and they can't be on several proces"):
        _placements(shape, Processes(count=2))
