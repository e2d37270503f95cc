"""/v1/files, as the official client calls it and as one that means harm does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from flaxen.job_routes.files.config import FilesConfig
from flaxen.job_routes.files.store import FileStore, StorageFullError
from flaxen.job_routes.fine_tuning.config import FineTuningConfig
from flaxen.job_routes.storage.tables import open_database
from tests.full_disk import fill_disk_of
from tests.job_routes.fine_tuning.serving import GOOD, MODEL, Served, serving
from tests.server.clients import get, http_client, openai_client, run


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, max_file_bytes=1000, max_total_bytes=2500, upload_idle_s=0.2) as each:
        yield each


def upload(served: Served, data: bytes = GOOD, name: str = "a.jsonl", **fields: str) -> Any:
    async def send() -> Any:
        async with http_client(served.app) as client:
            return await client.post(
                "/v1/files",
                files={"file": (name, data)},
                data={"purpose": "fine-tune", **fields},
            )

    return run(send())


def stored(served: Served) -> list[Path]:
    return sorted((served.directory / "files").iterdir())


def test_the_official_client_uploads_lists_reads_and_deletes(served: Served) -> None:
    listed = get(served.app, "/v1/files").json()
    assert (listed["data"], listed["first_id"], listed["last_id"]) == ([], "", "")

    async def work() -> None:
        async with openai_client(served.app) as client:
            first = await client.files.create(file=("a.jsonl", GOOD), purpose="fine-tune")
            second = await client.files.create(file=("b.jsonl", b"x"), purpose="fine-tune")
            third = await client.files.create(file=("c.txt", b"x"), purpose="user_data")
            assert [f.id async for f in client.files.list(purpose="user_data")] == [third.id]
            await client.files.delete(third.id)
            assert (first.object, first.bytes, first.filename) == ("file", len(GOOD), "a.jsonl")
            assert first.purpose == "fine-tune"
            assert first.status == "processed"
            assert await client.files.retrieve(first.id) == first
            assert (await client.files.content(first.id)).content == GOOD
            assert [f.id async for f in client.files.list()] == [second.id, first.id]
            assert [f.id async for f in client.files.list(limit=1)] == [second.id, first.id]
            assert [f.id async for f in client.files.list(order="asc")] == [first.id, second.id]
            assert [f.id async for f in client.files.list(purpose="batch")] == []
            gone = await client.files.delete(first.id)
            assert (gone.id, gone.deleted, gone.object) == (first.id, True, "file")
            with pytest.raises(openai.NotFoundError, match="there is no file"):
                await client.files.retrieve(first.id)
            assert [f.id async for f in client.files.list()] == [second.id]
            assert [path.name for path in stored(served)] == [second.id]

    run(work())


@pytest.mark.parametrize("name", ["../../evil", "/etc/passwd", "a\x00b\n", "ü" * 400, ""])
def test_a_file_name_never_becomes_a_path(served: Served, name: str) -> None:
    before = {path for path in served.directory.parent.rglob("*") if "flaxen.db" not in path.name}
    response = upload(served, name=name or " ")
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["filename"].isprintable()
    assert len(found["filename"]) <= 255
    after = {path for path in served.directory.parent.rglob("*") if "flaxen.db" not in path.name}
    assert after - before == {served.directory / "files" / found["id"]}


@pytest.mark.parametrize("path", ["/v1/files/..%2Fflaxen.db/content", "/v1/files/%2e%2e/content"])
def test_an_id_never_becomes_a_path(served: Served, path: str) -> None:
    upload(served)
    assert get(served.app, path).status_code == 404


def test_a_file_too_large_leaves_nothing(served: Served) -> None:
    response = upload(served, b"x" * 1001)
    assert response.status_code == 413
    assert "larger than 1000 bytes" in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == "file_too_large"
    assert stored(served) == []
    assert upload(served, b"x" * 1000).status_code == 200


def test_all_files_together_are_limited_and_deleting_makes_room(served: Served) -> None:
    first = upload(served, b"x" * 1000).json()
    assert upload(served, b"x" * 1000).status_code == 200
    full = upload(served, b"x" * 1000)
    assert (full.status_code, full.json()["error"]["code"]) == (413, "storage_full")
    assert "larger than 2500 bytes" in full.json()["error"]["message"]
    assert len(stored(served)) == 2
    served.files.delete(first["id"])
    assert upload(served, b"x" * 1000).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"purpose": "other"}, "purpose", "purpose must be one of fine-tune, batch, assistants"),
        ({"expires_after[seconds]": "3600"}, "expires_after[seconds]", "unknown field"),
        ({"purpose": "x" * 2000}, "purpose", "larger than 1024 bytes"),
    ],
)
def test_wrong_fields_are_named(
    served: Served, fields: dict[str, str], param: str, message: str
) -> None:
    response = upload(served, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert stored(served) == []


def _part(name: str, value: str, more: str = "") -> str:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (_part("purpose", "fine-tune") + "--B--\r\n", "'file' is required"),
        (_part("file", "x", '; filename="f"') + "--B--\r\n", "'purpose' is required"),
        (_part("file", "x") + "--B--\r\n", "must be a file, with a filename"),
        (_part("file", "x", '; filename="f"') * 2 + "--B--\r\n", "more than one file"),
        (_part("", "x") + "--B--\r\n", "has no name"),
        (_part("a", "x") * 17 + "--B--\r\n", "more than 16 parts"),
        (_part("file", "x", f'; filename="{"f" * 9000}"') + "--B--\r\n", "header size exceeded"),
        (_part("file", "x", '; filename="f"'), "ends before its last boundary"),
        ("no boundary at all", "not valid multipart"),
    ],
)
def test_a_form_that_is_wrong_says_so_and_leaves_nothing(
    served: Served, body: str, message: str
) -> None:
    response = _post_raw(served, body.encode(), "multipart/form-data; boundary=B")
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
    assert stored(served) == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", ""])
def test_another_content_type_is_refused(served: Served, kind: str) -> None:
    response = _post_raw(served, b"{}", kind)
    assert response.status_code == 415
    assert "uploaded as multipart/form-data" in response.json()["error"]["message"]


def test_a_boundary_that_is_no_boundary_is_refused(served: Served) -> None:
    response = _post_raw(served, b"", "multipart/form-data; boundary=" + "b" * 300)
    assert response.status_code == 400


def test_an_upload_that_stops_is_given_up(served: Served) -> None:
    async def body() -> Any:
        import asyncio

        yield _part("file", "x", '; filename="f"').encode()
        await asyncio.sleep(5)

    async def send() -> Any:
        headers = {"content-type": "multipart/form-data; boundary=B"}
        async with http_client(served.app) as client:
            return await client.post("/v1/files", content=body(), headers=headers)

    response = run(send())
    assert response.status_code == 408
    assert "nothing of the file came for 0.2 seconds" in response.json()["error"]["message"]
    assert stored(served) == []


def test_a_file_that_a_job_needs_is_kept(served: Served) -> None:
    served.trainer.may_step.clear()

    async def work() -> None:
        async with openai_client(served.app) as client:
            file = await client.files.create(file=("a.jsonl", GOOD), purpose="fine-tune")
            job = await client.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
            with pytest.raises(openai.ConflictError, match=f"needed by .* {job.id}"):
                await client.files.delete(file.id)
            await client.fine_tuning.jobs.cancel(job.id)
            assert (await client.files.delete(file.id)).deleted

    run(work())


def test_what_a_killed_server_left_is_removed_and_files_stay(tmp_path: Path) -> None:
    database = open_database(None, tmp_path)
    limits = {"max_file_bytes": 100, "max_total_bytes": 30}
    files = FileStore(database, tmp_path / "files", **limits)
    with files.create() as writer:
        writer.write(b"0123456789")
        row = writer.commit("name", "fine-tune")
    unfinished = files.create()
    unfinished.write(b"half")
    assert len(list((tmp_path / "files").iterdir())) == 2

    again = FileStore(database, tmp_path / "files", **limits)
    assert [path.name for path in (tmp_path / "files").iterdir()] == [row["id"]]
    assert again.path(row["id"]).read_bytes() == b"0123456789"
    with again.create() as writer:
        writer.write(b"x" * 20)
        with pytest.raises(StorageFullError, match="larger than 30 bytes"):
            writer.write(b"x")
    unfinished.__exit__(None, None, None)
    database.dispose()


def test_a_file_whose_bytes_are_gone_says_so(served: Served) -> None:
    file_id = upload(served).json()["id"]
    (served.directory / "files" / file_id).unlink()
    answer = get(served.app, f"/v1/files/{file_id}/content")
    assert answer.status_code == 404
    assert "are gone from the server's disk: upload it again" in answer.json()["error"]["message"]
    served.files.delete(file_id)
    assert get(served.app, "/v1/files").json()["data"] == []


def test_a_full_disk_is_told_and_not_tried_again(served: Served) -> None:
    async def body() -> Any:
        yield _part("purpose", "fine-tune").encode()
        fill_disk_of(served.directory / "files")
        yield (_part("file", "x" * 100, '; filename="f"') + "--B--\r\n").encode()

    async def send() -> Any:
        headers = {"content-type": "multipart/form-data; boundary=B"}
        async with http_client(served.app) as client:
            return await client.post("/v1/files", content=body(), headers=headers)

    answer = run(send())
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert "the server's disk has no room for the file" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert stored(served) == []
    assert upload(served).status_code == 200


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (FilesConfig, "max_file_bytes"),
        (FilesConfig, "max_total_bytes"),
        (FineTuningConfig, "max_active_jobs"),
        (FineTuningConfig, "max_lora_rank"),
    ],
)
def test_limits_are_checked(config: type[Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got 0"):
        config(**{name: 0})
    with pytest.raises(ValueError, match="upload_idle_s must be above 0 seconds, got 0"):
        FilesConfig(upload_idle_s=0)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("not a url", "the database URL is not one"),
        ("mysql+mysqldb://host/name", "driver .* is not installed"),
        ("sqlite:////no/such/directory/x.db", "can't be used"),
    ],
)
def test_a_database_that_is_not_there_is_named(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_database(url, tmp_path)


def test_a_key_is_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, api_keys=("secret",)) as served:
        assert get(served.app, "/v1/files").status_code == 401


def _post_raw(served: Served, body: bytes, kind: str) -> Any:
    async def send() -> Any:
        headers = {"content-type": kind} if kind else {}
        async with http_client(served.app) as client:
            return await client.post("/v1/files", content=body, headers=headers)

    return run(send())
