"""The same jobs, files and responses in PostgreSQL, where it and its driver are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from flaxen.job_routes.storage.directory import ID_FILE
from flaxen.job_routes.storage.tables import open_database
from flaxen.responses_routes.database import DatabaseStore
from flaxen.responses_routes.stored import StoredResponse
from tests.extras import extra
from tests.job_routes.fine_tuning.serving import GOOD, MODEL, serving
from tests.responses_routes.serving import Server
from tests.server.clients import openai_client, run

extra("psycopg")
pytestmark = pytest.mark.slow

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of its own on a Unix socket; it refuses to run as root, so it runs as postgres."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="flaxen-pg-", dir="/tmp"))  # a socket's path is short
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
        prefix = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")

    def call(program: str, *arguments: str) -> None:
        path = PROGRAMS[-1].with_name(program)
        subprocess.run(
            [*prefix, str(path), "-D", str(directory / "data"), *arguments],
            check=True, cwd=directory, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    call("initdb", "-U", "flaxen", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses='' -c fsync=off -k {directory}"
    call("pg_ctl", "-w", "-o", options, "-l", str(directory / "log"), "start")
    try:
        yield f"postgresql+psycopg://flaxen@/postgres?host={directory}"
    finally:
        call("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(directory)


def test_jobs_and_files_in_postgresql(url: str, tmp_path: Path) -> None:
    with serving(tmp_path, database_url=url) as served:

        async def work() -> str:
            async with openai_client(served.app) as client:
                file = await client.files.create(file=("ü.jsonl", GOOD), purpose="fine-tune")
                job = await client.fine_tuning.jobs.create(
                    model=MODEL, training_file=file.id, metadata={"a": "b"}
                )
                served.wait_for(job.id, "succeeded")
                job = await client.fine_tuning.jobs.retrieve(job.id)
                assert job.metadata == {"a": "b"}
                assert job.hyperparameters.n_epochs == 3
                events = client.fine_tuning.jobs.list_events(job.id, limit=3)
                messages = [event.message async for event in events]
                assert len(messages) == 11
                assert messages[-1] == f"Created fine-tuning job: {job.id}"
                points = client.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
                assert [point.step_number async for point in points] == [3, 2]
                listed = client.fine_tuning.jobs.list(metadata={"a": "b"})
                assert [each.id async for each in listed] == [job.id]
                assert (await client.files.retrieve(file.id)).filename == "ü.jsonl"
                assert (await client.files.delete(file.id)).deleted
                assert (await client.models.delete(job.fine_tuned_model)).deleted
                return str(job.id)

        job_id = run(work())
    with serving(tmp_path, database_url=url) as served:  # the tables are there already
        row = served.jobs.get(job_id)
        assert row["status"] == "succeeded"
        assert served.jobs.is_deleted(row["model_name"])
        left = [each.name for each in served.engine.adapters()]
        assert left == [f"{row['model_name']}:ckpt-step-2"]
        assert served.files.list() == ([], False)


def test_responses_in_postgresql(url: str, tmp_path: Path) -> None:
    async def work(database: sa.Engine) -> None:
        store = DatabaseStore(database)
        server = Server("A \x00 é.", store=store)
        running = {"id": f"resp_{1:032x}", "status": "queued", "created_at": 2**33}
        await store.put(StoredResponse(response=running, items=[]))
        async with openai_client(server.app) as client:
            made = await client.responses.create(model="fake/model", input="ü \x00")
            last = await client.responses.create(
                model="fake/model", input="And?", previous_response_id=made.id
            )
            again = DatabaseStore(database)  # the table is there already
            assert (await client.responses.retrieve(made.id)).output_text == "A \x00 é."
            ended = await again.get(running["id"])
            assert ended is not None
            assert ended.response["status"] == "failed"
            assert await again.delete(last.id)
            assert not await again.delete(last.id)

    database = open_database(url, tmp_path)
    run(work(database))
    database.dispose()


def test_a_database_has_one_data_directory_and_it_never_learns_the_password(
    url: str, tmp_path: Path
) -> None:
    url = url.replace("flaxen@", "flaxen:secret@").replace("/postgres?", "/template1?")
    with serving(tmp_path / "one", database_url=url):
        assert "secret" not in (tmp_path / "one" / ID_FILE).read_text()
    with pytest.raises(ValueError, match=r"belongs to .*/one, and not") as caught:
        serving(tmp_path / "two", database_url=url).__enter__()
    assert "secret" not in str(caught.value)


def test_a_database_that_does_not_exist_is_named_without_its_password(
    url: str, tmp_path: Path
) -> None:
    wrong = url.replace("/postgres", "/nothing").replace("flaxen@", "flaxen:secret@")
    with pytest.raises(ValueError, match=r"flaxen:\*\*\*@/nothing.* can't be used") as caught:
        open_database(wrong, tmp_path)
    assert "secret" not in str(caught.value)
