"""The directory of one server's files and models, and its binding to one database.

Both store the same id, so that the rows of one server are never used with the files of another.
Deliberately does not know the contents of the rows and files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from flaxen.job_routes.storage.names import is_file_name, is_job_name
from flaxen.job_routes.storage.tables import checkpoints, files, jobs, owners
from flaxen.weights.atomic import sync

ID_FILE = "flaxen.id"
_ONLY_ROW = 1


def lock_directory(path: Path) -> int:
    """Locks a directory for this process until it ends. Returns the lock's file descriptor.

    Raises:
      ValueError: another process has the lock, or the directory can't be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ValueError(
            f"the data directory {path} can't be used: {error.strerror}. Choose another "
            "--data-dir, one that this user may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise ValueError(
                f"{path} is in use by another server: give each its own --data-dir"
            ) from None
        raise ValueError(
            f"the data directory {path} can't be locked: {error.strerror}. Choose a --data-dir on "
            "a file system with locks"
        ) from error
    return descriptor


def bind(directory: Path, database: sa.Engine) -> None:
    """Binds a directory and a database to each other, or checks that they are bound.

    The id is written into the directory first. So if the directory has an id and the database has
    none, the server was killed while binding them, or the directory is older than ids, or its
    database was lost: the contents show which. If only the database has an id, it always belongs to
    another directory.

    Args:
      directory: a directory that the caller has locked.
      database: a database with its tables.

    Raises:
      ValueError: either belongs to another one, or the id can't be written.
      OSError: the directory can't be read.
    """
    mine, owner = _read_id(directory), _read_owner(database)
    where = database.url.render_as_string(hide_password=True)
    if owner is not None:
        if mine is None or mine.id != owner.id:
            raise ValueError(_other_id(directory, where, mine, owner))
        return
    _check_contents(directory, database, where)
    mine = mine or _write_id(directory, where)
    with database.begin() as connection:
        row = {"number": _ONLY_ROW, "id": mine.id, "directory": str(directory.absolute())}
        try:
            connection.execute(owners.insert().values(**row))
            return
        except sa.exc.IntegrityError:  # another server has just bound the same database
            pass
    owner = _read_owner(database)
    assert owner is not None, "the row that caused the conflict"
    raise ValueError(_other_id(directory, where, mine, owner))


@dataclass(frozen=True, kw_only=True)
class _Side:
    """What the directory, or the database, stores about the pair."""

    id: str
    other: str  # the place of the other one when they were bound


def _read_id(directory: Path) -> _Side | None:
    path = directory / ID_FILE
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    try:
        return _Side(id=str(uuid.UUID(lines[0].strip())), other=lines[1] if lines[1:] else "")
    except (ValueError, IndexError):
        raise ValueError(
            f"{path} does not begin with the id of a data directory: put back the file that was "
            "there, or give another --data-dir"
        ) from None


def _write_id(directory: Path, where: str) -> _Side:
    side = _Side(id=str(uuid.uuid4()), other=where)
    part = directory / (ID_FILE + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(f"{side.id}\n{where}\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(directory / ID_FILE)
        sync(directory)
    except OSError as error:
        raise ValueError(
            f"{directory / ID_FILE} can't be written: {error.strerror}. Make room there, or give "
            "another --data-dir"
        ) from error
    return side


def _read_owner(database: sa.Engine) -> _Side | None:
    with database.connect() as connection:
        row = connection.execute(sa.select(owners)).mappings().first()
    return None if row is None else _Side(id=row["id"], other=row["directory"])


def _other_id(directory: Path, where: str, mine: _Side | None, owner: _Side) -> str:
    has = f"which belongs to the database {mine.other}" if mine and mine.other else "which has none"
    return (
        f"the database {where} belongs to the data directory {owner.other}, and not to "
        f"{directory.absolute()}, {has}: give --data-dir and --database-url that belong together, "
        "or new ones. If the directory was only moved, or restored without its file, write the "
        f"line {owner.id} at the beginning of {directory / ID_FILE}"
    )


def _check_contents(directory: Path, database: sa.Engine, where: str) -> None:
    """Refuses files and models that a database without an id does not list, and the reverse."""
    here = {path.name for path in _our_files(directory)}
    with database.connect() as connection:
        ids = {row.id for row in connection.execute(sa.select(files.c.id))}
        needed = ids | {row.job_id for row in connection.execute(sa.select(checkpoints.c.job_id))}
        known = ids | {row.id for row in connection.execute(sa.select(jobs.c.id))}
    if here & known or not (here or needed):
        return
    found = (
        f"{directory} holds uploads or jobs ({len(here)}), and the database {where} lists none of "
        "them"
        if here
        else f"the database {where} lists uploads or models ({len(needed)}), and {directory} "
        "holds none of them"
    )
    raise ValueError(
        f"{found}: they do not belong together, and nothing was changed. Give the --database-url "
        "and --data-dir that were used together before, or an empty --data-dir and a new database"
    )


def _our_files(directory: Path) -> list[Path]:
    found = []
    for name, is_ours in (("files", is_file_name), ("jobs", is_job_name)):
        if (directory / name).is_dir():
            found += [path for path in (directory / name).iterdir() if is_ours(path.name)]
    return found


def is_disk_full(error: OSError) -> bool:
    """Whether the error says that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
