"""Writes checkpoints of a training run: any pytree, saved by Orbax while training continues.

A checkpoint gets its step's name when it is complete, so that a process killed at any moment leaves
the last complete one. Deliberately does not know the meaning of the tree, or training.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import TracebackType

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flaxen.checkpoints.reading import ARRAYS, INDEX, PLAIN, Json, Restored, Tree, restore, steps_in

_LEFT_OVER = re.compile(r"\d+\.(orbax-checkpoint-tmp.*|deleted)")


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
        self._checkpointer = ocp.AsyncCheckpointer(_handler())

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

        The tree's arrays may be donated or changed at once. Those of JAX are not copied: Orbax
        holds their buffers until they are written, and XLA never writes to a buffer that is held.

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
          Exception: the error of the previous save, such as a full disk.
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
        self._checkpointer.save(
            path,
            args=ocp.args.Composite(
                **{ARRAYS: ocp.args.StandardSave(arrays)} if arrays else {},
                **{INDEX: ocp.args.JsonSave(index)},
            ),
        )
        self._last = step
        return True

    def wait(self) -> None:
        """Waits until the last save is complete, and removes older checkpoints beyond `keep`.

        Raises:
          Exception: the error of the save, such as a full disk.
        """
        self._checkpointer.wait_until_finished()
        for step in self.steps()[: -self._keep]:
            path = self._directory / str(step)
            gone = path.with_name(f"{step}.deleted")
            # Renamed first, so that a directory named by a step is always complete.
            path.rename(gone)
            shutil.rmtree(gone)

    def close(self) -> None:
        """Waits for the last save and closes Orbax. The object can't be used afterwards."""
        self.wait()
        self._checkpointer.close()

    def restore(self, template: Tree, step: int | None = None) -> Restored:
        """Like `reading.restore`; the restored step is not saved again."""
        restored = restore(self._directory, template, step)
        self._last = restored.step
        return restored


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        **{ARRAYS: ocp.StandardCheckpointHandler(), INDEX: ocp.JsonCheckpointHandler()}
    )


def _taken_apart(tree: Tree) -> tuple[dict[str, jax.Array | np.ndarray], dict[str, Json]]:
    """The arrays that have values, and the index entry of each leaf, by its path."""
    arrays: dict[str, jax.Array | np.ndarray] = {}
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
        if leaf.size:  # Orbax refuses the others
            # NumPy arrays may be modified while Orbax reads them; JAX arrays are immutable.
            arrays[name] = leaf if isinstance(leaf, jax.Array) else np.array(leaf)
    return arrays, leaves
