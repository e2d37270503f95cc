"""A data directory and its database: what belongs together, and what is never touched."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from flaxen.job_routes.files.store import DiskFullError, FileStore
from flaxen.job_routes.storage.directory import ID_FILE, lock_directory
from flaxen.job_routes.storage.tables import open_database, owners
from flaxen.job_routes.stores import Stores, StoresConfig, open_stores
from tests.full_disk import fill_disk_of

LIMITS = {"max_file_bytes": 100, "max_total_bytes": 1000}


def opened(directory: Path, url: str | None = None) -> AbstractContextManager[Stores]:
    return open_stores(StoresConfig(data_dir=directory, database_url=url))


def upload(stores: Stores, data: bytes = b"0123456789") -> Path:
    with stores.files.create() as writer:
        writer.write(data)
        return stores.files.path(writer.commit("name", "fine-tune")["id"])


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


@contextmanager
def from_before_ids(directory: Path, url: str | None) -> Iterator[FileStore]:
    """A store as an earlier version left it."""
    directory.mkdir(exist_ok=True)
    database = open_database(url, directory)
    yield FileStore(database, directory / "files", **LIMITS)
    database.dispose()


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    foreign = tmp_path / "files"
    (foreign / "holiday").mkdir(parents=True)
    (foreign / "holiday" / "beach.jpg").write_bytes(b"beach")
    for name in ("thesis.docx", "thesis.part", ".part", "file-short.part", "file-" + "b" * 24):
        (foreign / name).write_bytes(b"mine")
    (foreign / ("file-" + "d" * 24 + ".part")).mkdir()
    (foreign / ("file-" + "l" * 24 + ".part")).symlink_to(foreign / "thesis.docx")
    with opened(tmp_path / "first") as stores:  # one upload that is listed: they belong together
        kept = upload(stores)
    shutil.copytree(tmp_path / "first", tmp_path, dirs_exist_ok=True)
    before = sorted(path for path in foreign.rglob("*"))
    with opened(tmp_path) as stores:
        again = stores.files.path(kept.name)
        assert again.read_bytes() == b"0123456789"
    assert sorted(path for path in foreign.rglob("*")) == before
    assert (foreign / "thesis.docx").read_bytes() == b"mine"


def test_our_own_unfinished_pieces_are_ended(tmp_path: Path) -> None:
    with opened(tmp_path) as stores:
        listed, removed = upload(stores, b"listed"), upload(stores, b"removed")
        half = stores.files.create()
        half.write(b"half")
        listed.rename(f"{listed}.part")  # killed between the list and the name
        removed.rename(f"{removed}.part")  # killed between the list and the removal
        stores.files.take_off(removed.name)
    with opened(tmp_path) as stores:
        assert [path.name for path in (tmp_path / "files").iterdir()] == [listed.name]
        assert stores.files.path(listed.name).read_bytes() == b"listed"
    half.__exit__(None, None, None)


@pytest.mark.parametrize("has_id", [True, False])
def test_uploads_outlive_a_start_with_another_database(tmp_path: Path, has_id: bool) -> None:
    data, mine, other = tmp_path / "data", url_of(tmp_path / "a.db"), url_of(tmp_path / "b.db")
    with opened(data, mine) as stores:
        path = upload(stores)
    if not has_id:  # as from before there were ids
        (data / ID_FILE).unlink()
    message = r"data holds uploads or jobs \(1\), and the database sqlite:///.*b.db lists none"
    with pytest.raises(ValueError, match=message), opened(data, other):
        pass
    with pytest.raises(ValueError, match=r"nothing was changed.* or an empty --data-dir"):
        opened(data).__enter__()  # an empty database in the directory itself
    assert path.read_bytes() == b"0123456789"
    if has_id:
        with opened(data, mine) as stores:
            assert stores.files.path(path.name) == path


def test_a_database_of_another_directory_is_refused(tmp_path: Path) -> None:
    one, two, url = tmp_path / "one", tmp_path / "two", url_of(tmp_path / "a.db")
    with opened(one, url):
        pass  # also where nothing was ever stored: the other server may run
    for _ in range(2):
        with (
            pytest.raises(ValueError, match=r"a.db belongs to .*/one, and not to .*/two, which "),
            opened(two, url),
        ):
            pass
        with opened(two):  # bound to a database of its own
            pass
    with pytest.raises(ValueError, match=r"which belongs to the database sqlite:///.*/two/flaxen"):
        opened(two, url).__enter__()


def test_a_moved_directory_can_be_bound_by_hand(tmp_path: Path) -> None:
    url = url_of(tmp_path / "a.db")
    with opened(tmp_path / "one", url) as stores:
        path = upload(stores)
    id_line = (tmp_path / "one" / ID_FILE).read_text().splitlines()[0]
    shutil.move(tmp_path / "one", tmp_path / "two")
    with opened(tmp_path / "two", url) as stores:  # it has its id with it
        assert stores.files.path(path.name).read_bytes() == b"0123456789"
    (tmp_path / "two" / ID_FILE).unlink()
    with pytest.raises(ValueError, match=f"write the line {id_line} at the beginning of .*two/"):
        opened(tmp_path / "two", url).__enter__()
    (tmp_path / "two" / ID_FILE).write_text(id_line)
    with opened(tmp_path / "two", url) as stores:
        assert stores.files.path(path.name).exists()


def test_directories_from_before_there_were_ids(tmp_path: Path) -> None:
    for url in (None, url_of(tmp_path / "a.db")):
        data = tmp_path / f"data-{url is None}"
        with from_before_ids(data, url) as files, files.create() as writer:
            writer.write(b"old")
            file_id = writer.commit("name", "fine-tune")["id"]
        with pytest.raises(ValueError, match=r"lists uploads or models \(1\), and .*new holds "):
            opened(tmp_path / "new", url or url_of(data / "flaxen.db")).__enter__()
        for _ in range(2):
            with opened(data, url) as stores:
                assert stores.files.path(file_id).read_bytes() == b"old"


def test_a_server_killed_between_the_two_ids_is_bound_at_the_next_start(tmp_path: Path) -> None:
    with opened(tmp_path) as stores:
        path = upload(stores)
        with stores.database.begin() as connection:
            connection.execute(owners.delete())
    with opened(tmp_path) as stores:
        assert stores.files.path(path.name) == path
        with stores.database.connect() as connection:
            (row,) = connection.execute(owners.select()).mappings()
        assert row["id"] == (tmp_path / ID_FILE).read_text().splitlines()[0]


@pytest.mark.parametrize("content", ["", "not an id\n", "\udcff"])
def test_a_file_that_is_no_id_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / ID_FILE).write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"flaxen\.id does not begin with the id of a data direct"):
        opened(tmp_path).__enter__()


def test_a_directory_has_one_server_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ValueError, match="in use by another server: give each"):
        lock_directory(tmp_path)
    with opened(tmp_path):
        pass


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/proc/nope", "No such file"),
        ("{}/file/below", "Not a directory"),
        ("{}/file", "File exists"),
    ],
)
def test_a_directory_that_can_not_be_used_is_named(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").write_text("mine")
    directory = Path(path.format(tmp_path))
    with pytest.raises(ValueError, match=f"{directory} can't be used: {reason}.* Choose another"):
        opened(directory).__enter__()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "files").write_text("mine")
    with pytest.raises(ValueError, match=r"data can't be used: .*File exists.*Choose another"):
        opened(tmp_path / "data").__enter__()
    assert (tmp_path / "data" / "files").read_text() == "mine"


@pytest.mark.parametrize("at_commit", [True, False])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, at_commit: bool) -> None:
    with opened(tmp_path) as stores:
        with stores.files.create() as writer:
            fill_disk_of(tmp_path / "files")
            if at_commit:
                writer.write(b"x")
            fail = (
                functools.partial(writer.commit, "name", "fine-tune")
                if at_commit
                else functools.partial(writer.write, b"x" * 100_000)
            )
            with pytest.raises(DiskFullError, match="no room for the file: delete files"):
                fail()
        assert list((tmp_path / "files").iterdir()) == []
        assert stores.files.list() == ([], False)
        assert upload(stores).exists()
