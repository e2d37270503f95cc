"""/v1/batches with the official client, over an application whose model says letters."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from flaxen.job_routes.batches.asking import Asking
from flaxen.job_routes.batches.batch_worker import BatchWorker
from flaxen.job_routes.batches.config import BatchesConfig
from flaxen.job_routes.fine_tuning.tuned_models import FineTunedModels
from flaxen.job_routes.mount import mount_jobs
from flaxen.job_routes.stores import StoresConfig, open_stores
from flaxen.protocol import PoolingInfo, Request, TokenEvent
from flaxen.responses_routes.responses import Responses
from flaxen.server.app import create_app
from flaxen.server.config import ServerConfig
from flaxen.serving.more_routes import more_routes
from tests.job_routes.fine_tuning.serving import FakeTrainer
from tests.server.clients import openai_client, run
from tests.server.fakes import STOP, FakeEngine, byte_tokenizer

CHAT = "/v1/chat/completions"


class Served:
    """A server of batches, whose worker runs."""

    def __init__(self, engine: FakeEngine, client: Any, worker: asyncio.Task[None]) -> None:
        self.engine, self.client, self.worker = engine, client, worker

    async def create(self, lines: list[Any], endpoint: str = CHAT, **more: Any) -> Any:
        text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
        file = await self.client.files.create(file=("in.jsonl", text.encode()), purpose="batch")
        return await self.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
        )

    async def until(self, batch_id: str, is_done: Callable[[Any], bool]) -> Any:
        for _ in range(1000):
            batch = await self.client.batches.retrieve(batch_id)
            if is_done(batch):
                return batch
            await asyncio.sleep(0.01)
        raise AssertionError(f"the batch is {batch.status}")

    async def ended(self, batch_id: str) -> Any:
        return await self.until(
            batch_id, lambda each: each.status in ("completed", "failed", "expired", "cancelled")
        )

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        text = (await self.client.files.content(file_id)).text
        return [json.loads(line) for line in text.splitlines()]


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    *,
    api_keys: tuple[str, ...] = (),
    step_s: float = 0.0,
    engine: FakeEngine | None = None,
    **limits: Any,
) -> AsyncIterator[Served]:
    engine, config = engine or FakeEngine(step_s=step_s), ServerConfig(api_keys=api_keys)
    app = create_app(engine, byte_tokenizer(), config, more_routes=more_routes(Responses()))
    settings = StoresConfig(data_dir=directory, batches=BatchesConfig(**limits))
    with open_stores(settings) as stores:
        worker = BatchWorker(
            stores.batches, stores.files, Asking(app, config, retry_s=0.01).ask, settings.batches
        )
        mount_jobs(
            app,
            config,
            stores,
            FineTunedModels(stores.jobs, FakeTrainer()),
            base_models=(),
            on_change=lambda: None,
            on_batch=worker.wake,
        )
        working = asyncio.create_task(worker.run())
        try:
            async with openai_client(app) as client:
                yield Served(engine, client, working)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


def chat(custom_id: str, **body: Any) -> dict[str, Any]:
    body = {"model": "fake/model", "messages": [{"role": "user", "content": "Hi"}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}


def test_a_batch_has_the_routes_own_answers(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, api_keys=("any",)) as served:
            asked = [chat("a", max_tokens=3), chat("b", model="other"), chat("c", max_tokens=2)]
            begun = await served.create(asked, metadata={"of": "mine"})
            assert (begun.status, begun.endpoint, begun.metadata) == (
                "validating",
                CHAT,
                {"of": "mine"},
            )
            batch = await served.ended(begun.id)
            assert batch.status == "completed"
            counts = batch.request_counts
            assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
            assert batch.created_at <= batch.in_progress_at <= batch.completed_at
            first, last = await served.lines(batch.output_file_id)
            assert (first["custom_id"], last["custom_id"]) == ("a", "c")
            assert (first["response"]["status_code"], first["error"]) == (200, None)
            assert first["response"]["body"]["choices"][0]["message"]["content"] == "abc"
            assert first["response"]["body"]["id"].endswith(first["response"]["request_id"])
            [wrong] = await served.lines(batch.error_file_id)
            assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("b", 404)
            assert wrong["response"]["body"]["error"]["code"] == "model_not_found"
            output = await served.client.files.retrieve(batch.output_file_id)
            assert output.purpose == "batch_output"
            listed = await served.client.batches.list()
            assert [each.id for each in listed.data] == [batch.id]

    run(work())


def test_responses_are_made_in_a_batch(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as served:
            url, body = "/v1/responses", {"input": "Hi", "max_output_tokens": 3, "store": False}
            line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
            batch = await served.ended((await served.create([line], url)).id)
            [result] = await served.lines(batch.output_file_id)
            [item] = result["response"]["body"]["output"]
            assert item["content"][0]["text"] == "abc"
            assert [each.priority for each in served.engine.requests] == [1000]

    run(work())


def test_requests_of_batches_come_after_others(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path) as served:
            line = {"custom_id": "a", "method": "POST", "url": "/v1/completions"}
            asked = [
                line | {"body": {"model": "fake/model", "prompt": "Hi", "max_tokens": 1}},
                line | {"custom_id": "b", "body": {"prompt": "Hi", "max_tokens": 1, "priority": 5}},
            ]
            batch = await served.create(asked, "/v1/completions")
            assert (await served.ended(batch.id)).request_counts.completed == 2
            assert sorted(each.priority for each in served.engine.requests) == [5, 1000]

    run(work())


def test_as_many_requests_run_at_once_as_are_allowed(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, step_s=0.02, max_concurrent=3) as served:
            batch = await served.create([chat(str(i), max_tokens=3) for i in range(9)])
            most = 0
            while (await served.client.batches.retrieve(batch.id)).status != "completed":
                most = max(most, len(served.engine.open))
                await asyncio.sleep(0.005)
            assert most == 3

    run(work())


def test_a_full_queue_is_waited_out(tmp_path: Path) -> None:
    async def work() -> None:
        engine = FakeEngine(step_s=0.01, max_waiting=2)
        async with serving(tmp_path, engine=engine) as served:
            batch = await served.create([chat(str(i), max_tokens=2) for i in range(12)])
            assert (await served.ended(batch.id)).request_counts.completed == 12

    run(work())


def test_a_restarted_server_goes_on_behind_the_last_answer(tmp_path: Path) -> None:
    async def work() -> None:
        asked = [chat(str(i), max_tokens=2) for i in range(40)]
        async with serving(tmp_path, step_s=0.01, max_concurrent=2) as served:
            batch = await served.create(asked)
            await served.until(batch.id, lambda each: each.request_counts.completed >= 4)
        done = len(served.engine.requests) - 2  # those that ran are asked again
        async with serving(tmp_path) as again:
            batch = await again.ended(batch.id)
            assert (batch.status, batch.request_counts.completed) == ("completed", 40)
            assert 40 - done - 2 <= len(again.engine.requests) <= 40 - done + 2
            lines = await again.lines(batch.output_file_id)
            assert [line["custom_id"] for line in lines] == [str(i) for i in range(40)]

    run(work())


def test_a_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, step_s=0.01, max_concurrent=1) as served:
            batch = await served.create([chat(str(i), max_tokens=2) for i in range(100)])
            await served.until(batch.id, lambda each: each.request_counts.completed >= 2)
            cancelled = await served.client.batches.cancel(batch.id)
            assert cancelled.status == "cancelling"
            batch = await served.ended(batch.id)
            assert batch.status == "cancelled"
            lines = await served.lines(batch.output_file_id)
            assert 2 <= len(lines) == batch.request_counts.completed < 100
            assert not served.engine.open
            with pytest.raises(openai.BadRequestError, match="the batch is cancelled"):
                await served.client.batches.cancel(batch.id)

    run(work())


def test_an_expired_batch_tells_what_it_did_not_answer(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, step_s=0.05, max_concurrent=1, lifetime_s=1) as served:
            batch = await served.create([chat(str(i), max_tokens=4) for i in range(50)])
            batch = await served.ended(batch.id)
            assert batch.status == "expired"
            answered = await served.lines(batch.output_file_id)
            expired = await served.lines(batch.error_file_id)
            assert len(answered) + len(expired) == 50
            assert {line["error"]["code"] for line in expired} == {"batch_expired"}
            assert {line["custom_id"] for line in answered + expired} == set(map(str, range(50)))

    run(work())


@pytest.mark.parametrize(
    ("line", "code", "named"),
    [
        ("[", "invalid_request", "the line is not valid JSON"),
        (chat("a") | {"method": "GET"}, "invalid_request", "method must be 'POST'"),
        (chat("a") | {"url": "/v1/other"}, "invalid_request", "url must be"),
        (chat("a", stream=True), "invalid_request", "body.stream must be false"),
        (chat("a") | {"custom_id": 1}, "invalid_request", "custom_id must be a string"),
        (chat("a") | {"more": 1}, "invalid_request", "unknown field 'more'"),
        (chat("first"), "duplicate_custom_id", "that of an earlier line"),
    ],
    ids=str,
)
def test_a_batch_with_a_wrong_line_fails(tmp_path: Path, line: Any, code: str, named: str) -> None:
    async def work() -> None:
        async with serving(tmp_path) as served:
            batch = await served.ended((await served.create([chat("first"), line])).id)
            assert batch.status == "failed"
            [error] = batch.errors.data
            assert (error.line, error.code) == (2, code)
            assert named in error.message
            assert not served.engine.requests

    run(work())


def test_what_can_not_be_created_is_refused(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, max_requests=1) as served:
            client = served.client
            wrong = {"endpoint": CHAT, "completion_window": "24h"}
            with pytest.raises(openai.NotFoundError):
                await client.batches.create(input_file_id="file-1", **wrong)
            file = await client.files.create(file=("x", b"{}"), purpose="fine-tune")
            with pytest.raises(openai.BadRequestError, match="upload it with purpose='batch'"):
                await client.batches.create(input_file_id=file.id, **wrong)
            with pytest.raises(openai.BadRequestError, match="completion_window"):
                await served.create([chat("a")], extra_body={"completion_window": "1h"})
            with pytest.raises(openai.BadRequestError, match="endpoint must be"):
                await served.create([chat("a")], "/v1/files")
            with pytest.raises(openai.NotFoundError):
                await client.batches.retrieve("batch_1")
            many = await served.ended((await served.create([chat("a"), chat("b")])).id)
            assert many.errors.data[0].code == "too_many_tasks"
            none = await served.ended((await served.create([" "])).id)
            assert none.errors.data[0].code == "empty_file"

    run(work())


def test_a_file_that_a_batch_needs_is_kept(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, step_s=0.01) as served:
            batch = await served.create([chat("a", max_tokens=20)])
            with pytest.raises(openai.ConflictError, match="needed by the batch"):
                await served.client.files.delete(batch.input_file_id)
            await served.ended(batch.id)
            assert (await served.client.files.delete(batch.input_file_id)).deleted

    run(work())


class Embedding(FakeEngine):
    """Gives each prompt the same vector."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, pooling=PoolingInfo(task="embed", pooling="last"))

    async def _run(self, request: Request) -> AsyncIterator[TokenEvent]:
        finish = replace(STOP, pooled=(0.0, 1.0), num_prompt_tokens=len(request.prompt_token_ids))
        yield TokenEvent(request_id=request.request_id, index=0, finish=finish)


def test_embeddings_are_made_in_a_batch(tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(tmp_path, engine=Embedding()) as served:
            url, body = "/v1/embeddings", {"model": "fake/model", "input": "Hi"}
            line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
            batch = await served.ended((await served.create([line], url)).id)
            [result] = await served.lines(batch.output_file_id)
            assert result["response"]["body"]["data"][0]["embedding"] == [0.0, 1.0]

    run(work())
