"""One of two processes that train together on one mesh, each with half of its devices.

python -m tests.mesh.training_process --mesh MESH, and the options of `two_processes`
"""

from __future__ import annotations

import argparse
import json

import jax

from flaxen.sharding.processes import start_processes
from flaxen.training.full import full
from flaxen.training.loss import next_token


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--mesh", "--coordinator-address", "--num-processes", "--process-id"):
        parser.add_argument(name)
    given = parser.parse_args()
    mesh, index = given.mesh, int(given.process_id)
    start_processes(given.coordinator_address, int(given.num_processes), index)
    # After JAX was told: the tiny model's weights are arrays.
    from tests.mesh.training import FLOAT32, model_on, params_on, run_steps
    from tests.training.tiny import make, random_batch

    model = model_on(mesh)
    step = make(full(model, dtype=FLOAT32), next_token(model), weight_decay=0.1, eps=1e-3)
    batches = [random_batch(seed, num_rows=8) for seed in (0, 1)]
    found = run_steps(step, params_on(model), batches, num_microbatches=2)
    assert not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(found.state.params))
    if index == 0:
        for each in found.metrics:
            print(json.dumps({name: value.item() for name, value in each.items()}))


main()
