"""Uploaded files: rows in the database, bytes on disk under our own ids.

A client's file name is never part of a path. A file is written as ID.part, synced, listed, and
renamed to ID; a deletion does the reverse. So the leftovers of a killed server are recognised by
their name and the list, and nothing else in the directory is ever touched. Deliberately does not
know HTTP or the contents of files.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import sqlalchemy as sa

from flaxen.job_routes.storage.directory import is_disk_full
from flaxen.job_routes.storage.names import UNFINISHED, is_file_name, new_file_name
from flaxen.job_routes.storage.pages import Row, UnknownIdError, page_of, row_of
from flaxen.job_routes.storage.tables import files
from flaxen.weights.atomic import sync


class FileTooLargeError(ValueError):
    """The file exceeds the limit of one file."""


class StorageFullError(ValueError):
    """All files together would exceed their limit."""


class DiskFullError(ValueError):
    """The disk is full."""


class FileStore:
    """The files of one server. Safe to use from several threads.

    Args:
      database: the database that is bound to the directory (`storage.directory.bind`).
      directory: created if it is missing. Files that are not ours are never touched.
      max_file_bytes: the most of one file.
      max_total_bytes: the most of all files together.

    Raises:
      OSError: the directory can't be made or read.
    """

    def __init__(
        self, database: sa.Engine, directory: Path, *, max_file_bytes: int, max_total_bytes: int
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._database = database
        self._directory = directory
        self._max_file_bytes, self._max_total_bytes = max_file_bytes, max_total_bytes
        self._lock = threading.Lock()
        with database.connect() as connection:
            rows = connection.execute(sa.select(files.c.id, files.c.bytes))
            known = {row.id: row.bytes for row in rows}
        self._total_bytes: int = sum(known.values())
        for part in _unfinished(directory):
            if part.stem in known:  # listed but not renamed yet, or being deleted but still listed
                part.rename(directory / part.stem)
            else:
                part.unlink()

    def create(self) -> FileWriter:
        """Starts a file, which exists once its writer is committed."""
        return FileWriter(self, self._directory, self._max_file_bytes)

    def get(self, file_id: str) -> Row:
        """Returns a file's row.

        Raises:
          UnknownIdError: no file has this id.
        """
        return row_of(self._database, files, file_id)

    def path(self, file_id: str) -> Path:
        """The path of a file's bytes, made from the row's id, never from the client's.

        Raises:
          UnknownIdError: no file has this id.
        """
        path: Path = self._directory / self.get(file_id)["id"]
        return path

    def list(
        self,
        purpose: str | None = None,
        *,
        after: str | None = None,
        limit: int = 10_000,
        newest_first: bool = True,
    ) -> tuple[Sequence[Row], bool]:
        """Returns a page of the files, and whether there are more.

        Raises:
          UnknownIdError: no file has the id `after`.
        """
        query = sa.select(files)
        if purpose is not None:
            query = query.where(files.c.purpose == purpose)
        with self._database.connect() as connection:
            return page_of(connection, query, files, after, limit, newest_first=newest_first)

    def delete(self, file_id: str) -> None:
        """Removes a file.

        Raises:
          UnknownIdError: no file has this id.
        """
        row = self.get(file_id)
        path = self._directory / row["id"]
        part = path.with_name(path.name + UNFINISHED)
        with contextlib.suppress(FileNotFoundError):  # its bytes are already gone
            path.rename(part)
        try:
            deleted = self.take_off(file_id)
        except BaseException:
            with contextlib.suppress(OSError):
                part.rename(path)
            raise
        if not deleted:
            raise UnknownIdError(file_id)
        part.unlink(missing_ok=True)
        self.release(row["bytes"])

    def reserve(self, num_bytes: int) -> None:
        """Reserves space for bytes to be written.

        Raises:
          StorageFullError: there is not enough space.
        """
        with self._lock:
            if self._total_bytes + num_bytes > self._max_total_bytes:
                raise StorageFullError(
                    f"all files together would be larger than {self._max_total_bytes} bytes, the "
                    "most this server stores: delete files that are no longer needed"
                )
            self._total_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Releases reserved space."""
        with self._lock:
            self._total_bytes -= num_bytes

    def insert(self, row: Row) -> Row:
        """Adds the row of a file whose bytes are durable."""
        with self._database.begin() as connection:
            connection.execute(files.insert().values(**row))
        return self.get(row["id"])

    def take_off(self, file_id: str) -> bool:
        """Removes a file's row. Returns whether there was one."""
        with self._database.begin() as connection:
            deleted = connection.execute(files.delete().where(files.c.id == file_id)).rowcount
        return bool(deleted)


class FileWriter:
    """One file while it is written; as a context manager it removes an uncommitted file."""

    def __init__(self, store: FileStore, directory: Path, max_bytes: int) -> None:
        self._store, self._max_bytes = store, max_bytes
        self._id = new_file_name()
        self._path = directory / self._id
        self._part = directory / (self._id + UNFINISHED)
        with _clear_when_full():
            self._file: BinaryIO = open(self._part, "xb")  # noqa: SIM115 (closed in __exit__)
        self._num_bytes = 0
        self._is_listed = False
        self._committed = False

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
          FileTooLargeError: the file exceeds its limit.
          StorageFullError: all files together exceed theirs.
          DiskFullError: the disk is full.
        """
        if self._num_bytes + len(data) > self._max_bytes:
            raise FileTooLargeError(
                f"the file is larger than {self._max_bytes} bytes, the most this server takes: "
                "split it"
            )
        self._store.reserve(len(data))
        self._num_bytes += len(data)
        with _clear_when_full():
            self._file.write(data)

    def commit(self, filename: str, purpose: str) -> Row:
        """Syncs and lists the file. Returns its row; `filename` is only displayed.

        Raises:
          DiskFullError: the disk is full.
        """
        with _clear_when_full():
            self._file.flush()
            os.fsync(self._file.fileno())
            sync(self._path.parent)
        row = self._store.insert(
            {
                "id": self._id,
                "created_at": int(time.time()),
                "filename": filename,
                "purpose": purpose,
                "bytes": self._num_bytes,
            }
        )
        self._is_listed = True
        with _clear_when_full():
            os.rename(self._part, self._path)
            sync(self._path.parent)
        self._committed = True
        return row

    def __enter__(self) -> FileWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._committed:
            self._file.close()
            return
        with contextlib.suppress(OSError):  # closing flushes the buffer, and the disk may be full
            self._file.close()
        if self._is_listed:
            self._store.take_off(self._id)
        self._part.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)
        self._store.release(self._num_bytes)


def _unfinished(directory: Path) -> list[Path]:
    """The files whose names show that they were being written or removed."""
    with os.scandir(directory) as entries:
        return [
            directory / entry.name
            for entry in entries
            if entry.name.endswith(UNFINISHED)
            and is_file_name(entry.name.removesuffix(UNFINISHED))
            and entry.is_file(follow_symlinks=False)
        ]


@contextlib.contextmanager
def _clear_when_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(
            "the server's disk has no room for the file: delete files that are no longer needed, "
            "or have the disk that --data-dir is on enlarged"
        ) from error
