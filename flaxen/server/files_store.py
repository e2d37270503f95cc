"""Uploaded files: rows in the database, bytes on disk under ids of our own.

No name that a client sent is ever part of a path. A file is written beside its place, made durable
and renamed into it, and only then has a row. Deliberately does not know HTTP or what is in a file.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import string
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import sqlalchemy as sa

from flaxen.server.job_store import Row, UnknownIdError
from flaxen.server.job_store_tables import files

_UNFINISHED = ".part"


class FileTooLargeError(ValueError):
    """More bytes than one file may have."""


class StorageFullError(ValueError):
    """More bytes than all files together may have."""


class FileStore:
    """The files of one server. Safe to use from several threads."""

    def __init__(
        self, database: sa.Engine, directory: Path, *, max_file_bytes: int, max_total_bytes: int
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._database = database
        self._directory = directory
        self._max_file_bytes, self._max_total_bytes = max_file_bytes, max_total_bytes
        self._lock = threading.Lock()
        known = {row["id"]: row["bytes"] for row in self.list()}
        self._total_bytes: int = sum(known.values())
        for path in directory.iterdir():  # what a killed server had not finished, or not removed
            if path.name not in known:
                path.unlink()

    def create(self) -> FileWriter:
        """Begins a file; it exists once its writer is committed."""
        return FileWriter(self, self._directory, self._max_file_bytes)

    def get(self, file_id: str) -> Row:
        """Returns a file's row.

        Raises:
          UnknownIdError: there is none of this id.
        """
        with self._database.connect() as connection:
            query = sa.select(files).where(files.c.id == file_id)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise UnknownIdError(file_id)
        return dict(row)

    def path(self, file_id: str) -> Path:
        """Where a file's bytes are; the id is looked up, never taken as it came.

        Raises:
          UnknownIdError: there is none of this id.
        """
        path: Path = self._directory / self.get(file_id)["id"]
        return path

    def list(self, purpose: str | None = None) -> Sequence[Row]:
        """All files, newest first."""
        query = sa.select(files).order_by(files.c.number.desc())
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._database.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def delete(self, file_id: str) -> None:
        """Removes a file.

        Raises:
          UnknownIdError: there is none of this id.
        """
        row = self.get(file_id)
        with self._database.begin() as connection:
            deleted = connection.execute(files.delete().where(files.c.id == file_id)).rowcount
        if not deleted:
            raise UnknownIdError(file_id)
        (self._directory / row["id"]).unlink(missing_ok=True)
        self.release(row["bytes"])

    def reserve(self, num_bytes: int) -> None:
        """Takes room for bytes about to be written.

        Raises:
          StorageFullError: there is not that much.
        """
        with self._lock:
            if self._total_bytes + num_bytes > self._max_total_bytes:
                raise StorageFullError(
                    f"all files together would be larger than {self._max_total_bytes} bytes, the "
                    "most this server stores: delete files that are no longer needed"
                )
            self._total_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Gives room back."""
        with self._lock:
            self._total_bytes -= num_bytes

    def insert(self, row: Row) -> Row:
        """Adds the row of a file whose bytes are in place."""
        with self._database.begin() as connection:
            connection.execute(files.insert().values(**row))
        return self.get(row["id"])


class FileWriter:
    """One file while it is written; a context, at whose end an uncommitted file is gone."""

    def __init__(self, store: FileStore, directory: Path, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes
        self._id = f"file-{new_id()}"
        self._path = directory / self._id
        self._part = directory / (self._id + _UNFINISHED)
        self._file: BinaryIO = open(self._part, "xb")  # noqa: SIM115 (closed in __exit__)
        self._num_bytes = 0
        self._committed = False

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
          FileTooLargeError: the file has more than it may.
          StorageFullError: all files together have.
        """
        if self._num_bytes + len(data) > self._max_bytes:
            raise FileTooLargeError(
                f"the file is larger than {self._max_bytes} bytes, the most this server takes: "
                "split it"
            )
        self._store.reserve(len(data))
        self._num_bytes += len(data)
        self._file.write(data)

    def commit(self, filename: str, purpose: str) -> Row:
        """Makes the file durable and known. Returns its row; `filename` is only ever shown."""
        self._file.flush()
        os.fsync(self._file.fileno())
        os.rename(self._part, self._path)
        sync_directory(self._path.parent)
        row = self._store.insert(
            {
                "id": self._id,
                "created_at": int(time.time()),
                "filename": filename,
                "purpose": purpose,
                "bytes": self._num_bytes,
            }
        )
        self._committed = True
        return row

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        if not self._committed:
            self._part.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
            self._store.release(self._num_bytes)


def new_id() -> str:
    """24 random letters and digits, safe as a file's name."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(24))


def sync_directory(path: Path) -> None:
    """Makes renames in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_directory(path: Path) -> int:
    """Makes a directory this process's own until it ends. Returns the lock's descriptor.

    Raises:
      ValueError: another process has it.
    """
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ValueError(
            f"{path} is in use by another server: give each its own --data-dir"
        ) from None
    return descriptor
