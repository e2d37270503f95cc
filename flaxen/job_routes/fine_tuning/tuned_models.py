"""The models that jobs made, served under their names until they are deleted.

A model is marked as deleted in its row before its files are removed, so that a server that is
killed in between removes them at its next start. Deliberately does not know HTTP, or how a model is
served.
"""

from __future__ import annotations

import logging

from flaxen.job_routes.fine_tuning.job_store import JobStore
from flaxen.job_routes.fine_tuning.trainer import FineTunedModel, Trainer
from flaxen.job_routes.storage.pages import Row, UnknownIdError

logger = logging.getLogger("flaxen.server")


class FineTunedModels:
    """Safe to use from several threads."""

    def __init__(self, jobs: JobStore, trainer: Trainer) -> None:
        self._jobs, self._trainer = jobs, trainer

    def serve_all(self) -> None:
        """Serves the models when the server starts, and removes leftovers of deleted ones and of
        ended jobs.
        """
        for job_id in self._jobs.ended_ids():
            self._trainer.remove_state(job_id)
        for row in self._jobs.models(deleted=True):
            self._remove(row)
        for row in self._jobs.models(deleted=False):
            try:
                self._trainer.serve(model_of(row))
            except (ValueError, OSError) as error:
                logger.error("the model %s can't be served: %s", row["model_name"], error)

    def delete(self, name: str) -> None:
        """Deletes a model: running requests finish with it, and new ones are refused.

        Raises:
          UnknownIdError: no job made this model, or it was already deleted.
        """
        row = self._jobs.delete_model(name)
        self._remove(row)

    def _remove(self, row: Row) -> None:
        try:
            self._trainer.remove(model_of(row))
        except OSError as error:  # it is no longer served, and the next start tries again
            logger.error("the files of %s can't be removed: %s", row["model_name"], error)

    def unload(self, name: str) -> None:
        """Unloads a model's weights from memory; the next request reads them again.

        Raises:
          UnknownIdError: no job made this model, or it was deleted.
        """
        if not any(row["model_name"] == name for row in self._jobs.models(deleted=False)):
            raise UnknownIdError(name)
        self._trainer.unload(name)


def model_of(row: Row) -> FineTunedModel:
    """Converts a row of JobStore.models to a FineTunedModel."""
    return FineTunedModel(
        name=row["model_name"],
        job_id=row["job_id"],
        step=row["step"],
        rank=row["lora"]["rank"],
        created=row["created_at"],
    )
