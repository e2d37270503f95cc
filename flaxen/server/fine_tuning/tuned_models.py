"""The models that jobs made: served under their names until they are deleted for good.

A model's row says whether it is deleted, before its files go: a server that is killed in between
removes them at its next start. Deliberately does not know HTTP, or how a model is served.
"""

from __future__ import annotations

import logging

from flaxen.server.fine_tuning.job_store import JobStore
from flaxen.server.fine_tuning.trainer import FineTunedModel, Trainer
from flaxen.server.storage.pages import Row, UnknownIdError

logger = logging.getLogger("flaxen.server")


class FineTunedModels:
    """Safe to use from several threads."""

    def __init__(self, jobs: JobStore, trainer: Trainer) -> None:
        self._jobs, self._trainer = jobs, trainer

    def take_up(self) -> None:
        """At a server's start: has the models served, and removes what earlier ones left."""
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
        """Ends a model: requests that run with it are served to their end, and no new ones begin.

        Raises:
          UnknownIdError: no job made it, or it is deleted already.
        """
        row = self._jobs.delete_model(name)
        self._remove(row)
        logger.info("deleted the model %r", name)

    def _remove(self, row: Row) -> None:
        try:
            self._trainer.remove(model_of(row))
        except OSError as error:  # it is not served any more, and the next start tries again
            logger.error("the files of %s can't be removed: %s", row["model_name"], error)

    def unload(self, name: str) -> None:
        """Lets go of a model's weights in memory; the next request has them read again.

        Raises:
          UnknownIdError: no job made it, or it is deleted.
        """
        if not any(row["model_name"] == name for row in self._jobs.models(deleted=False)):
            raise UnknownIdError(name)
        self._trainer.unload(name)


def model_of(row: Row) -> FineTunedModel:
    """The model of a row of JobStore.models."""
    return FineTunedModel(
        name=row["model_name"],
        job_id=row["job_id"],
        step=row["step"],
        rank=row["lora"]["rank"],
        created=row["created_at"],
    )
