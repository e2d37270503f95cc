"""Writes checkpoints of a training run: any pytree, written by a thread while training continues.

A checkpoint gets its step's name when it is complete and on the disk, so that a process killed at
any moment, and a machine without power, leave the last complete one. Deliberately does not know the
meaning of the tree, or training.
"""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.checkpoints.reading import ARRAYS, INDEX, PLAIN, Json, Restored, Tree, restore, steps_in
from flaxen.weights.atomic import sync, sync_tree
from flaxen.weights.safetensors_writer import write_arrays

_LEFT_OVER = re.compile(r"\d+\.(part|deleted)")


class Checkpoints:
    """The checkpoints in a directory, for one process and one thread. Final.

    Args:
      directory: created if it is missing; each checkpoint is a directory in it. Unfinished
          checkpoints of a killed process are removed.
      keep: how many of the newest are kept, besides the one being saved.
      every: steps from one checkpoint to the next.

    Raises:
      ValueError: a number is below 1.
    """

    def __init__(self, directory: Path, *, keep: int = 3, every: int = 1) -> None:
        for name, value in {"keep": keep, "every": every}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        for entry in self._directory.iterdir():
            if _LEFT_OVER.fullmatch(entry.name):
                shutil.rmtree(entry)
        self._keep, self._every = keep, every
        self._last: int | None = None  # the step last saved or restored by this object
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, in order."""
        return steps_in(self._directory)

    def save(self, step: int, tree: Tree, extra: Json = None, *, force: bool = False) -> bool:
        """Starts saving a tree, after the previous save is complete.

        The tree's arrays may be donated or changed at once. Those of JAX are not copied on a CPU:
        the view of NumPy holds their buffers until they are written, and XLA never writes to a
        buffer that is held.

        Args:
          step: the number of steps done.
          tree: arrays of JAX (PRNG keys too) or NumPy, and Python's bool, int, float and str.
          extra: a small JSON value of any structure, such as the position in the data.
          force: save even if `every` does not divide the step.

        Returns:
          Whether it is being saved. False between multiples of `every`, and for a step that this
          object has already saved or restored.

        Raises:
          ValueError: a leaf has another type, or another run made a checkpoint of this step.
          OSError: the previous save failed, on a full disk for example.
        """
        if step == self._last or (step % self._every and not force):
            return False
        path = self._directory / str(step)
        if path.exists():
            raise ValueError(
                f"{path} already exists, and this run did not make it: resume from the last "
                "checkpoint, or give an empty directory"
            )
        self.wait()
        arrays, leaves = _taken_apart(tree)
        index = {"version": 1, "step": step, "leaves": leaves, "extra": extra}
        self._saving = self._writer.submit(_write, path, arrays, json.dumps(index))
        self._last = step
        return True

    def wait(self) -> None:
        """Waits until the last save is complete, and removes older checkpoints beyond `keep`.

        Raises:
          OSError: the save failed, on a full disk for example.
        """
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()
        for step in self.steps()[: -self._keep]:
            path = self._directory / str(step)
            gone = path.with_name(f"{step}.deleted")
            # Renamed first, so that a directory named by a step is always complete.
            path.rename(gone)
            shutil.rmtree(gone)

    def close(self) -> None:
        """Waits for the last save and ends the thread. The object can't be used afterwards."""
        self._writer.shutdown()
        self.wait()

    def restore(self, template: Tree, step: int | None = None) -> Restored:
        """Like `reading.restore`; the restored step is not saved again."""
        restored = restore(self._directory, template, step)
        self._last = restored.step
        return restored


def _write(path: Path, arrays: dict[str, np.ndarray], index: str) -> None:
    """Writes a checkpoint beside its name, and renames it when it is whole."""
    part = path.with_name(f"{path.name}.part")
    part.mkdir()
    try:
        write_arrays(part / ARRAYS, arrays)
        (part / INDEX).write_text(index, encoding="utf-8")
        sync_tree(part)
    except BaseException:  # its room on a full disk is given back
        shutil.rmtree(part)
        raise
    part.rename(path)
    sync(path.parent)


def _taken_apart(tree: Tree) -> tuple[dict[str, np.ndarray], dict[str, Json]]:
    """The arrays, and the index entry of each leaf, by its path."""
    arrays: dict[str, np.ndarray] = {}
    leaves: dict[str, Json] = {}
    for place, leaf in jax.tree.flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(place)
        if type(leaf) in PLAIN:
            leaves[name] = {"value": leaf}
            continue
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise ValueError(
                f"the leaf {name} is a {type(leaf).__name__}: only arrays, bool, int, float and "
                "str can be saved"
            )
        leaves[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[name]["key_impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        # NumPy arrays may be modified while they are written; JAX arrays are immutable.
        arrays[name] = np.asarray(leaf) if isinstance(leaf, jax.Array) else np.array(leaf)
    return arrays, leaves
