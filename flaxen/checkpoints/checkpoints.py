"""Writes checkpoints of a training run: any pytree, written by a thread while training continues.

A checkpoint gets its step's name when it is complete and on the disk, so that a process killed at
any moment, and a machine without power, leave the last complete one. A tree on a mesh is never
gathered: each process writes the pieces on its own devices. Deliberately does not know the meaning
of the tree, or training.
"""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flaxen.checkpoints.pieces import take_apart
from flaxen.checkpoints.reading import Json, Restored, Tree, restore, steps_in
from flaxen.checkpoints.writing import write_checkpoint
from flaxen.sharding.processes import Processes

_LEFT_OVER = re.compile(r"\d+\.(part|deleted)")


_ALONE = Processes()


class Checkpoints:
    """The checkpoints in a directory, for one thread of each process. Final.

    Args:
      directory: created if it is missing; each checkpoint is a directory in it. Unfinished
          checkpoints of a killed process are removed.
      keep: how many of the newest are kept, besides the one being saved.
      every: steps from one checkpoint to the next.
      processes: those that save together; each makes an object of its own, with the same
          directory, and calls `save` for the same steps. None may save before process 0 has made
          its object, which removes what is unfinished.

    Raises:
      ValueError: a number is below 1.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 3,
        every: int = 1,
        processes: Processes = _ALONE,
    ) -> None:
        for name, value in {"keep": keep, "every": every}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._processes = processes
        for entry in self._directory.iterdir() if processes.index == 0 else ():
            if _LEFT_OVER.fullmatch(entry.name):
                shutil.rmtree(entry)
        self._keep, self._every = keep, every
        self._last: int | None = None  # the step last saved or restored by this object
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
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
        pieces = take_apart(tree, self._processes)
        index = {"version": 2 if pieces.is_divided else 1, "step": step, "extra": extra}
        self._saving = self._writer.submit(write_checkpoint, path, pieces, index, self._processes)
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
        for step in self.steps()[: -self._keep] if self._processes.index == 0 else ():
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
