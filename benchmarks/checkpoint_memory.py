"""What saving a training state costs: memory beside the state, and how long the training waits.

One process, a state of random arrays, on the disk of the temporary directory. With --mesh the state
is divided over virtual CPU devices, and comes back divided in another way.

    python benchmarks/checkpoint_memory.py [--mib 400] [--mesh] [--write]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from report import report

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.checkpoints.reading import restore
from flaxen.sharding.mesh import make_mesh
from flaxen.sharding.placement import Placement
from flaxen.sharding.shape import parse_mesh

_NUM_ARRAYS, _COLUMNS = 8, 4096


def _sharding(mesh: str) -> jax.sharding.Sharding:
    return Placement(make_mesh(parse_mesh(mesh))).sharding(("model", "mlp"), (4096, _COLUMNS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=400, help="size of the state")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--mesh", action="store_true", help="from tensor=4,fsdp=2 to fsdp=8")
    args = parser.parse_args()
    if args.mesh:
        jax.config.update("jax_num_cpu_devices", 8)
    size = args.mib * 2**20 // 4 // _NUM_ARRAYS
    keys = jax.random.split(jax.random.key(0), _NUM_ARRAYS)
    made = [jax.random.normal(key, (size // _COLUMNS, _COLUMNS)) for key in keys]
    where = _sharding("tensor=4,fsdp=2") if args.mesh else made[0].sharding
    state = jax.block_until_ready([jax.device_put(each, where) for each in made])
    del made
    figures: dict[str, float] = {"state_mib": args.mib}
    with tempfile.TemporaryDirectory() as directory:
        with Checkpoints(Path(directory)) as checkpoints:
            begin = time.perf_counter()
            with _peak_beside() as peak:
                checkpoints.save(1, state)
                figures["blocked_s"] = time.perf_counter() - begin
                checkpoints.wait()
            figures["save_s"] = time.perf_counter() - begin
            figures["save_peak_mib"] = peak[0]
        with _peak_beside() as peak:
            to = _sharding("fsdp=8") if args.mesh else where
            template = [jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=to) for each in state]
            begin = time.perf_counter()
            restored = jax.block_until_ready(restore(Path(directory), template).tree)
            figures["restore_s"] = time.perf_counter() - begin
        figures["restore_peak_mib"] = peak[0]  # of which the restored state is one
    assert all((one == other).all() for one, other in zip(restored, state, strict=True))
    report("checkpoint_memory" + ("_mesh" if args.mesh else ""), figures, write=args.write)


@contextlib.contextmanager
def _peak_beside() -> Iterator[list[float]]:
    """The most memory that the process had in the block, in MiB beside what it had before."""
    before, peak, ended = _resident_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], _resident_mib() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
