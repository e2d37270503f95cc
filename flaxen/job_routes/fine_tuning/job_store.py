"""Fine-tuning jobs, their events and their checkpoints, in a database.

Each change is one transaction, and one server at a time uses a database (its data directory is
locked): a lock of this process is then all that keeps changes apart. Deliberately does not know
HTTP or training.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flaxen.job_routes.storage.pages import Row, UnknownIdError, first_of, page_of, row_of
from flaxen.job_routes.storage.tables import checkpoints, deleted_models, events, jobs

ACTIVE = ("validating_files", "queued", "running", "paused")
ENDED = ("succeeded", "failed", "cancelled")


class JobStore:
    """Safe to use from several threads."""

    def __init__(self, database: sa.Engine) -> None:
        self._database = database
        self._writing = threading.Lock()

    def add(self, values: Mapping[str, Any], *, max_active: int) -> Row | None:
        """Stores a new job with status validating_files. Returns it, or None if too many are
        active.
        """
        active = sa.select(sa.func.count()).where(jobs.c.status.in_(ACTIVE))
        with self._writing, self._database.begin() as connection:
            if connection.execute(active).scalar_one() >= max_active:
                return None
            values = {**values, "created_at": _now(), "status": "validating_files"}
            connection.execute(jobs.insert().values(**values))
            _add_event(connection, values["id"], f"Created fine-tuning job: {values['id']}")
        return self.get(values["id"])

    def get(self, job_id: str) -> Row:
        """Returns a job.

        Raises:
          UnknownIdError: no job has this id.
        """
        return row_of(self._database, jobs, job_id)

    def status(self, job_id: str) -> str:
        """The job's status, by a cheap query."""
        with self._database.connect() as connection:
            query = sa.select(jobs.c.status).where(jobs.c.id == job_id)
            return str(connection.execute(query).scalar_one())

    def list(
        self,
        *,
        after: str | None = None,
        limit: int = 100,
        keeps: Callable[[Row], bool] | None = None,
    ) -> tuple[Sequence[Row], bool]:
        """Returns a page of the jobs, newest first, and whether there are more.

        Args:
          after: the id of the previous page's last job.
          limit: the most jobs of the page.
          keeps: decides whether a job belongs to the list; None keeps all.

        Raises:
          UnknownIdError: no job of the list has the id `after`.
        """
        with self._database.connect() as connection:
            return page_of(connection, sa.select(jobs), jobs, after, limit, keeps=keeps)

    def oldest(self, statuses: Collection[str]) -> Row | None:
        """The oldest job with one of the statuses."""
        query = sa.select(jobs).where(jobs.c.status.in_(statuses)).order_by(jobs.c.number)
        return first_of(self._database, query)

    def ended_ids(self) -> Sequence[str]:
        """The ids of the jobs that have ended."""
        query = sa.select(jobs.c.id).where(jobs.c.status.in_(ENDED)).order_by(jobs.c.number)
        with self._database.connect() as connection:
            return list(connection.execute(query).scalars())

    def uses_file(self, file_id: str) -> str | None:
        """The id of an active job that needs the file."""
        query = sa.select(jobs.c.id).where(
            jobs.c.status.in_(ACTIVE),
            sa.or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id),
        )
        with self._database.connect() as connection:
            return connection.execute(query.limit(1)).scalar()

    def change_status(
        self,
        job_id: str,
        status: str,
        *,
        of: Collection[str],
        messages: Sequence[str] = (),
        level: str = "info",
        **values: Any,
    ) -> bool:
        """Changes a job's status and other values, if its status is one of `of`.

        Args:
          messages: events to add, in order.
          level: the level of the events.

        Returns:
          Whether its status was one of `of`; if not, nothing was changed.
        """
        if status in ENDED:
            values["finished_at"] = _now()
        if status != "running":
            values["estimated_finish"] = None
        update = jobs.update().where(jobs.c.id == job_id, jobs.c.status.in_(of))
        with self._writing, self._database.begin() as connection:
            found = connection.execute(update.values(status=status, **values)).rowcount == 1
            for message in messages if found else ():
                _add_event(connection, job_id, message, level=level)
        return found

    def set(self, job_id: str, **values: Any) -> None:
        """Changes values of a job other than its status."""
        with self._writing, self._database.begin() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(**values))

    def add_event(self, job_id: str, message: str, *, level: str = "info") -> None:
        """Adds a message to a job's events."""
        with self._writing, self._database.begin() as connection:
            _add_event(connection, job_id, message, level=level)

    def add_step(self, job_id: str, step: int, message: str, data: Row, **values: Any) -> None:
        """Adds a step's metrics to a job's events, unless the step already has an event.

        A job that resumes from a checkpoint repeats later steps with exactly the same result.
        """
        update = jobs.update().where(jobs.c.id == job_id, jobs.c.last_step < step)
        with self._writing, self._database.begin() as connection:
            if connection.execute(update.values(last_step=step, **values)).rowcount == 1:
                _add_event(connection, job_id, message, type="metrics", data=dict(data))

    def add_checkpoint(self, job_id: str, step: int, model_name: str, metrics: Row) -> None:
        """Adds a checkpoint and its event, unless the step has one."""
        same = sa.select(checkpoints.c.id).where(
            checkpoints.c.job_id == job_id, checkpoints.c.step == step
        )
        with self._writing, self._database.begin() as connection:
            if connection.execute(same).first() is not None:
                return
            connection.execute(
                checkpoints.insert().values(
                    id=f"ftckpt_{uuid.uuid4().hex[:24]}",
                    job_id=job_id,
                    created_at=_now(),
                    step=step,
                    model_name=model_name,
                    metrics=dict(metrics),
                )
            )
            _add_event(connection, job_id, f"Checkpoint created at step {step}")

    def models(self, *, deleted: bool) -> Sequence[Row]:
        """The models of checkpoints, oldest first: each checkpoint's row with its job's `lora`."""
        is_deleted = checkpoints.c.model_name.in_(sa.select(deleted_models.c.model_name))
        query = (
            sa.select(checkpoints, jobs.c.lora)
            .join(jobs, jobs.c.id == checkpoints.c.job_id)
            .where(is_deleted if deleted else sa.not_(is_deleted))
            .order_by(checkpoints.c.number)
        )
        with self._database.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def delete_model(self, name: str) -> Row:
        """Marks a model as deleted. Returns its row, as in `models`.

        Raises:
          UnknownIdError: no checkpoint has the name, or it was already deleted.
        """
        found = next((row for row in self.models(deleted=False) if row["model_name"] == name), None)
        if found is None:
            raise UnknownIdError(name)
        values = {"model_name": name, "deleted_at": _now()}
        try:
            with self._writing, self._database.begin() as connection:
                connection.execute(deleted_models.insert().values(**values))
        except sa.exc.IntegrityError:  # another request has just deleted it
            raise UnknownIdError(name) from None
        return found

    def is_deleted(self, name: str) -> bool:
        """Whether the model with this name was deleted."""
        query = sa.select(deleted_models).where(deleted_models.c.model_name == name)
        with self._database.connect() as connection:
            return connection.execute(query).first() is not None

    def events(self, job_id: str, after: str | None, limit: int) -> tuple[Sequence[Row], bool]:
        """Returns a page of a job's events, newest first, and whether there are more.

        Raises:
          UnknownIdError: no event has the id `after`.
        """
        return self._page(events, job_id, after, limit)

    def checkpoints(self, job_id: str, after: str | None, limit: int) -> tuple[Sequence[Row], bool]:
        """Returns a page of a job's checkpoints in the same way."""
        return self._page(checkpoints, job_id, after, limit)

    def _page(
        self, table: sa.Table, job_id: str, after: str | None, limit: int
    ) -> tuple[Sequence[Row], bool]:
        query = sa.select(table).where(table.c.job_id == job_id)
        with self._database.connect() as connection:
            return page_of(connection, query, table, after, limit)


def _add_event(
    connection: sa.Connection,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    type: str = "message",
    data: Row | None = None,
) -> None:
    connection.execute(
        events.insert().values(
            id=f"ftevent-{uuid.uuid4().hex[:24]}",
            job_id=job_id,
            created_at=_now(),
            level=level,
            type=type,
            message=message,
            data=data,
        )
    )


def _now() -> int:
    return int(time.time())
