"""Runs batches one after the other on the server's event loop, and stores their answers.

A batch's row and results have its whole state: after a kill, the next server goes on behind the
last answer. Deliberately does not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from flaxen.job_routes.batches.batch_lines import (
    Answered,
    BatchRequest,
    check_file,
    custom_id_of,
    error_line,
    read_lines,
    read_request,
    result_line,
)
from flaxen.job_routes.batches.batch_store import ACTIVE, BatchStore
from flaxen.job_routes.batches.config import BatchesConfig
from flaxen.job_routes.files.store import FileStore
from flaxen.job_routes.storage.pages import Row

logger = logging.getLogger("flaxen.server")

OUTPUT_PURPOSE = "batch_output"
_POLL_S = 30.0  # between two looks at the batches, in case the database was down


@dataclass(frozen=True, eq=False)
class BatchWorker:
    """Works while `run` runs."""

    batches: BatchStore
    files: FileStore  # with the requests of batches, and with their results
    ask: Callable[[BatchRequest], Awaitable[Answered]]  # answers one request
    config: BatchesConfig  # how many requests run at once, and the most of a batch
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    def wake(self) -> None:
        """Announces that a batch was created or cancelled. For the event loop's thread."""
        self._changed.set()

    async def run(self) -> None:
        """Works until it is cancelled; a running batch then stays to be resumed."""
        while True:
            self._changed.clear()
            try:
                batch = await asyncio.to_thread(self.batches.oldest_active)
                if batch is not None:
                    await self._work(batch)
                    continue
            # For example the disk is full: the batch is still there when it is not any more.
            except Exception:
                logger.exception("batches can't be worked on; trying again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _POLL_S)

    async def _work(self, batch: Row) -> None:
        batch_id = batch["id"]
        if not self.files.path(batch["input_file"]).is_file():
            lost = "the bytes of the input file are gone from the server's disk: upload it again"
            error = {"code": "file_lost", "line": None, "message": lost, "param": "input_file_id"}
            self.batches.change_status(batch_id, "failed", of=ACTIVE, errors=[error])
        elif batch["status"] == "validating":
            await self._validate(batch)
        elif batch["status"] == "in_progress":
            if await self._answer_all(batch):
                await asyncio.to_thread(
                    self.batches.change_status, batch_id, "finalizing", of=("in_progress",)
                )
        else:
            await asyncio.to_thread(self._finish, batch)

    async def _validate(self, batch: Row) -> None:
        path = self.files.path(batch["input_file"])
        count, errors = await asyncio.to_thread(
            check_file, path, batch["endpoint"], self.config.max_requests
        )
        values = {"errors": errors} if errors else {"num_requests": count}
        status = "failed" if errors else "in_progress"
        self.batches.change_status(batch["id"], status, of=("validating",), **values)
        logger.info(
            "batch %(batch_id)s is %(batch_status)s",
            {"batch_id": batch["id"], "batch_status": status},
            extra={"requests": count},
        )

    async def _answer_all(self, batch: Row) -> bool:
        """Answers the lines that have no answer. Returns False if the batch was cancelled."""
        answering = asyncio.create_task(self._answer_lines(batch))
        try:
            while not answering.done():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                left_s = max(0.0, batch["expires_at"] - time.time())
                await asyncio.wait(
                    (answering, changed), timeout=left_s, return_when=asyncio.FIRST_COMPLETED
                )
                changed.cancel()
                if not answering.done() and time.time() >= batch["expires_at"]:
                    return True
                if self.batches.get(batch["id"])["status"] != "in_progress":
                    return False
            answering.result()
            return True
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)

    async def _answer_lines(self, batch: Row) -> None:
        answered = await asyncio.to_thread(self.batches.answered_lines, batch["id"])
        turns = asyncio.Semaphore(self.config.max_concurrent)

        async def answer(number: int, line: bytes) -> None:
            try:
                request = read_request(line, (batch["endpoint"],))
                answer = await self.ask(request)
                text = result_line(request.custom_id, answer)
                await asyncio.to_thread(
                    self.batches.add_result,
                    batch["id"],
                    number,
                    text,
                    is_error=answer.status != 200,
                )
            finally:
                turns.release()

        async with asyncio.TaskGroup() as group:
            for number, line in read_lines(self.files.path(batch["input_file"])):
                if number not in answered:
                    await turns.acquire()
                    group.create_task(answer(number, line))

    def _finish(self, batch: Row) -> None:
        """Writes the files of results, and ends the batch."""
        batch_id, status = batch["id"], "completed"
        if batch["status"] == "cancelling":
            status = "cancelled"
        elif batch["num_completed"] + batch["num_failed"] < batch["num_requests"]:
            status = "expired"
            self._add_expired(batch)
        outputs = self._write(batch_id, "output", self.batches.results(batch_id, is_error=False))
        errors = self._write(batch_id, "errors", self.batches.results(batch_id, is_error=True))
        self.batches.change_status(
            batch_id, status, of=(batch["status"],), output_file=outputs, error_file=errors
        )
        logger.info(
            "batch %(batch_id)s is %(batch_status)s",
            {"batch_id": batch_id, "batch_status": status},
        )

    def _add_expired(self, batch: Row) -> None:
        answered = self.batches.answered_lines(batch["id"])
        for number, line in read_lines(self.files.path(batch["input_file"])):
            if number not in answered:
                message = "the request was not answered before the batch expired"
                text = error_line(custom_id_of(line), "batch_expired", message)
                self.batches.add_result(batch["id"], number, text, is_error=True)

    def _write(self, batch_id: str, what: str, lines: Iterator[str]) -> str | None:
        """Writes a file of results. Returns its id; None if there are none."""
        first = next(lines, None)
        if first is None:
            return None
        with self.files.create() as writer:
            writer.write(first.encode() + b"\n")
            for line in lines:
                writer.write(line.encode() + b"\n")
            row = writer.commit(f"{batch_id}_{what}.jsonl", OUTPUT_PURPOSE)
        file_id: str = row["id"]
        return file_id
