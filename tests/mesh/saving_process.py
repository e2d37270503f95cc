"""One of two processes that load a model onto one mesh, save it together, and restore it.

python -m tests.mesh.saving_process INDEX PORT DIRECTORY
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.kernels.backend import Backend
from flaxen.models.layout import param_shardings
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.processes import this_process
from flaxen.sharding.shape import parse_mesh
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import GOLDENS


def placement(text: str) -> Placement:
    return Placement(make_mesh(parse_mesh(text)))


def assert_own_parts(params: Any, whole: Any) -> None:
    for leaf, expected in zip(jax.tree.leaves(params), jax.tree.leaves(whole), strict=True):
        assert not leaf.is_fully_addressable
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(expected)[shard.index])


def assert_own_layer(layers: Any, index: int) -> None:
    """Each process holds the layer of its own stage, and nothing of the other layer."""
    for number, layer in enumerate(layers):
        for leaf in jax.tree.leaves(layer):
            assert bool(leaf.addressable_shards) == (number == index)


def main() -> None:
    index, port, directory = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, index)
    checkpoint = open_checkpoint(GOLDENS / "qwen3_tied")
    whole = checkpoint.load_params(jnp.dtype("float32"))
    params = checkpoint.load_params(jnp.dtype("float32"), placement=placement("fsdp=2,tensor=4"))
    assert_own_parts(params, whole)
    stages = placement("pipeline=2,tensor=4")
    staged = checkpoint.load_params(jnp.dtype("float32"), placement=stages)["layers"]
    assert_own_layer(staged, index)
    quantized = checkpoint.load_params(
        jnp.dtype("float32"), backend=Backend.GPU, quantization="int8", placement=stages
    )
    assert_own_layer(quantized["layers"], index)
    state = {"params": params, "layers": staged, "step": jnp.int32(1), "key": jax.random.key(3)}
    where = param_shardings(checkpoint.model.param_specs, placement("tensor=8"))
    with Checkpoints(directory, processes=this_process()) as checkpoints:
        # Process 0 has removed what was left over, as it has before the first step of a training.
        multihost_utils.sync_global_devices("made")
        checkpoints.save(1, state)
        checkpoints.wait()
        template = {
            **state,
            "params": jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                params,
                where,
            ),
        }
        restored = checkpoints.restore(template).tree
        assert_own_parts(restored["params"], whole)
        assert int(restored["step"]) == 1
        print("restored", flush=True)
        if index == 1:
            # Not before the other has written its part: it writes nothing once it knows of this.
            while not list(directory.glob("2.part/arrays-00000-*")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(2, state)  # waits for the other, until it is killed too


if __name__ == "__main__":
    main()
