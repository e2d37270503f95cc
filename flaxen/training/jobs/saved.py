"""The saved state of a job: the state after its last complete step, saved regularly.

Deliberately does not know training steps.
"""

from __future__ import annotations

import time
from typing import Any

from flaxen.checkpoints.checkpoints import Checkpoints
from flaxen.checkpoints.reading import read_extra
from flaxen.data.iterate import DataIterator
from flaxen.training.fingerprint import Fingerprint, check_unchanged, to_json
from flaxen.training.jobs.spec import JobSpec, state_directory
from flaxen.training.state import TrainState


class SavedState:
    """The saved state of one job. Final.

    Args:
      spec: the job.
      checkpoints: the checkpoints in its state directory.
      fingerprint: what the state depends on.
    """

    def __init__(self, spec: JobSpec, checkpoints: Checkpoints, fingerprint: Fingerprint) -> None:
        self._spec, self._checkpoints, self._fingerprint = spec, checkpoints, fingerprint
        self._saved_s = time.monotonic()
        self.num_tokens = 0  # tokens trained since the job's beginning
        self.last: TrainState | None = None  # None before the first step, and during a step

    def resume(self, state: TrainState, batches: DataIterator[Any]) -> TrainState:
        """Restores the saved state and the batches' position; returns `state` if nothing was saved.

        Raises:
          ValueError: the saved state depends on something that has changed since.
        """
        saved = self._checkpoints.steps()
        if not saved:
            return state
        extra = read_extra(state_directory(self._spec.directory), saved[-1])
        check_unchanged(
            extra.get("run"),
            self._fingerprint,
            what=f"the job was stopped after step {saved[-1]}",
            anew="create a new job",
        )
        state = self._checkpoints.restore(state).tree
        batches.restore(extra["data"])
        self.num_tokens = extra["num_tokens"]
        return state

    @property
    def is_due(self) -> bool:
        """Whether the time has come to save the next complete step."""
        return time.monotonic() - self._saved_s > self._spec.save_every_s

    def save(self) -> None:
        """Starts saving the last complete step, if this process made one."""
        if self.last is None:
            return
        extra = {
            "data": self.last.data_state,
            "num_tokens": self.num_tokens,
            "run": to_json(self._fingerprint),
        }
        tree = self.last._replace(data_state=None)
        self._checkpoints.save(int(self.last.step), tree, extra, force=True)
        self._saved_s = time.monotonic()
