"""What saving a training state costs: memory beside the state, and how long the training waits.

One process, a state of random arrays, on the disk of the temporary directory.

    python benchmarks/checkpoint_memory.py [--mib 400] [--write]
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

_NUM_ARRAYS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=400, help="size of the state")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    size = args.mib * 2**20 // 4 // _NUM_ARRAYS
    keys = jax.random.split(jax.random.key(0), _NUM_ARRAYS)
    state = jax.block_until_ready([jax.random.normal(key, (size,)) for key in keys])
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
            restored = restore(Path(directory), jax.eval_shape(lambda: state)).tree
        figures["restore_peak_mib"] = peak[0]  # of which the restored state is one
    assert all((one == other).all() for one, other in zip(restored, state, strict=True))
    report("checkpoint_memory", figures, write=args.write)


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
