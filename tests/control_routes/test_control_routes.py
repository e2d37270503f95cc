"""The routes that pause an engine, put it to sleep and change its weights, over a real engine."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flaxen.build import Parts, build
from flaxen.control_routes.routes import control_routes
from flaxen.engine.async_engine import AsyncEngine
from flaxen.engine.control import EngineControl
from flaxen.engine_args import EngineArgs
from flaxen.server.app import DEV_ROUTES, create_app
from flaxen.server.config import ServerConfig
from flaxen.server.error_answers import DEV_PATHS
from flaxen.serving.reclaim import reclaim_memory
from tests.e2e.tiny_model import write_tiny_model
from tests.server.clients import http_client, make_app, post
from tests.server.fakes import FakeEngine, byte_tokenizer

_T = TypeVar("_T")
NOBODY: Any = None  # the engine that is controlled, where no call comes to it
PROMPT = "The same beginning, of more than two pages of tokens."


@pytest.fixture(scope="module")
def directories(tmp_path_factory: Any) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    for name in ("old", "new"):
        (root / name).mkdir()
    return [write_tiny_model(root / name, seed) for seed, name in enumerate(("old", "new"))]


@dataclass
class Server:
    """A server of a tiny model, in memory."""

    client: httpx.AsyncClient
    engine: AsyncEngine
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def ok(self, method: str, path: str, **request: Any) -> Any:
        answer = await self.client.request(method, path, **request)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def ask(self, max_tokens: int = 24) -> Any:
        body = {"prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
        body |= {"return_token_ids": True}
        answer = await self.client.post("/v1/completions", json=body)
        assert answer.status_code in (200, 503), answer.text  # 503: it was aborted
        return answer.json()

    async def tokens(self) -> list[int]:
        found: list[int] = (await self.ask())["choices"][0]["token_ids"]
        return found

    def start(self, max_tokens: int) -> asyncio.Task[Any]:
        self._tasks.append(asyncio.create_task(self.ask(max_tokens)))
        return self._tasks[-1]

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not is_so():
                await asyncio.sleep(0.005)

    async def update(self, path: Path, **fields: Any) -> Any:
        body = {"model_path": str(path), **fields}
        return await self.ok("POST", "/update_weights_from_disk", json=body)

    async def is_sleeping(self) -> bool:
        found: bool = (await self.ok("GET", "/is_sleeping"))["is_sleeping"]
        return found


@asynccontextmanager
async def serving(directory: Path, **args: Any) -> AsyncIterator[Server]:
    parts: Parts = build(
        EngineArgs(model=str(directory), max_num_seqs=4, max_num_batched_tokens=64, **args),
        compiles_beside=True,
    )
    tokenizer, read_weights = parts.tokenizer, parts.read_weights
    with AsyncEngine(parts.engine, compile_after_s=60) as engine:
        del parts  # with the weights: the engine alone has them
        routes = control_routes(EngineControl(engine, read_weights, str(directory), reclaim_memory))
        config = ServerConfig(dev_mode=True)
        app = create_app(engine, tokenizer, config, more_routes=routes)
        async with http_client(app) as client:
            yield Server(client, engine)


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Several engines are built, which takes its time on a busy machine."""
    return asyncio.run(asyncio.wait_for(work, 240))


def held_bytes(before: set[int], memory_kind: str = "device") -> int:
    gc.collect()
    arrays = [each for each in jax.live_arrays() if id(each) not in before]
    return sum(each.nbytes for each in arrays if each.sharding.memory_kind == memory_kind)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_sleep_frees_memory_and_changes_no_token(backend: str, directories: list[Path]) -> None:
    async def work() -> None:
        gc.collect()
        before = {id(each) for each in jax.live_arrays()}
        async with serving(directories[0], backend=backend, kv_cache_bytes=2**22) as server:
            expected = await server.tokens()
            awake = held_bytes(before)
            await server.ok("POST", "/sleep")
            assert await server.is_sleeping()
            without_cache = held_bytes(before)
            assert without_cache <= awake - 2**22 * 0.9
            await server.ok("POST", "/sleep?level=2&mode=wait")
            assert held_bytes(before) < 0.1 * without_cache
            await server.ok("POST", "/wake_up?tags=weights")
            assert await server.is_sleeping()
            assert held_bytes(before) <= without_cache
            waiting = server.start(24)
            await server.ok("POST", "/wake_up?tags=kv_cache")
            assert not await server.is_sleeping()
            answer = await waiting
            assert answer["choices"][0]["token_ids"] == expected
            assert answer["weights_version"] == 0
            # What was in the pages is gone.
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            assert held_bytes(before) <= awake * 1.05

    run(work())


def test_weights_outside_of_the_hosts_memory_move_there(directories: list[Path]) -> None:
    async def work() -> None:
        before = {id(each) for each in jax.live_arrays()}
        async with serving(directories[0], backend="reference") as server:
            expected = await server.tokens()
            stepped: Any = server.engine._engine
            stepped._executor._calls._is_on_host = False  # as on an accelerator
            await server.ok("POST", "/sleep")
            moved = held_bytes(before, "pinned_host")
            assert moved > 0
            assert held_bytes(before) < 0.1 * moved
            await server.ok("POST", "/wake_up")
            assert held_bytes(before, "pinned_host") == 0
            assert await server.tokens() == expected

    run(work())


def test_what_a_pause_does_with_requests(directories: list[Path]) -> None:
    async def work() -> None:
        async with serving(directories[0]) as server:
            expected = (await server.ask(200))["choices"][0]["token_ids"]

            async def begun() -> asyncio.Task[Any]:
                made = server.engine.stats().num_generated_tokens
                task = server.start(200)
                await server.until(lambda: server.engine.stats().num_generated_tokens > made)
                return task

            for sleeps in (False, True):
                begins = "/sleep?mode=" if sleeps else "/pause?mode="
                ends = "/wake_up" if sleeps else "/resume"

                first = await begun()
                await server.ok("POST", f"{begins}keep")
                made = server.engine.stats().num_generated_tokens
                later, left = server.start(4), server.start(4)
                await server.until(lambda: server.engine.stats().num_waiting >= 2)
                left.cancel()  # its client leaves meanwhile
                await asyncio.gather(left, return_exceptions=True)
                assert server.engine.stats().num_generated_tokens == made
                assert (await server.ok("GET", "/is_paused"))["is_paused"]
                await server.ok("POST", ends)
                assert (await first)["choices"][0]["token_ids"] == expected
                assert (await later)["choices"][0]["token_ids"] == expected[:4]

                first = await begun()
                await server.ok("POST", f"{begins}wait")
                assert first.done() or (await asyncio.wait_for(first, 5))
                assert first.result()["choices"][0]["token_ids"] == expected
                await server.ok("POST", ends)

                first = await begun()
                await server.ok("POST", f"{begins}abort")
                assert (await first)["error"]["code"] == "aborted"
                later = server.start(4)
                await server.ok("POST", ends)
                assert (await later)["choices"][0]["token_ids"] == expected[:4]
            assert not (await server.ok("GET", "/is_paused"))["is_paused"]

    run(work())


def test_new_weights_answer_as_a_server_that_started_with_them(directories: list[Path]) -> None:
    old, new = directories

    async def tokens_of(directory: Path) -> list[int]:
        async with serving(directory) as server:
            return await server.tokens()

    async def work(expected: list[int]) -> None:
        async with serving(old) as server:
            before = await server.tokens()
            assert before != expected
            assert (await server.update(new))["weight_version"] == 1
            answer = await server.ask()
            assert answer["choices"][0]["token_ids"] == expected
            assert answer["weights_version"] == 1
            # The prompt's pages are those of the old weights.
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
            assert (await server.ask())["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
            assert (await server.update(old, weight_version="7"))["weight_version"] == 7
            assert await server.tokens() == before
            [model] = (await server.ok("GET", "/v1/models"))["data"]
            assert model["weights_version"] == 7
            # Asleep without weights, where there is room for one model only.
            await server.ok("POST", "/sleep?level=2")
            await server.update(new)
            assert await server.is_sleeping()
            await server.ok("POST", "/wake_up")
            assert await server.tokens() == expected
            # What wakes up again is what was served last.
            await server.ok("POST", "/sleep?level=2")
            await server.ok("POST", "/wake_up")
            answer = await server.ask()
            assert answer["choices"][0]["token_ids"] == expected
            assert answer["weights_version"] == 8

    run(work(run(tokens_of(new))))


def test_an_update_lets_requests_end_or_aborts_them_or_changes_them(
    directories: list[Path],
) -> None:
    old, new = directories

    async def work() -> None:
        async with serving(old) as server:
            expected = (await server.ask(200))["choices"][0]["token_ids"]
            task = server.start(200)
            await server.until(lambda: server.engine.stats().num_running > 0)
            await server.update(new)
            answer = await task
            assert answer["choices"][0]["token_ids"] == expected
            assert answer["weights_version"] == 0
            other = (await server.ask(200))["choices"][0]["token_ids"]
            task = server.start(200)
            await server.until(lambda: server.engine.stats().num_running > 0)
            await server.update(old, abort_all_requests=True, keep_pause=True)
            assert (await task)["error"]["code"] == "aborted"
            assert (await server.ok("GET", "/is_paused"))["is_paused"]
            await server.ok("POST", "/resume")
            # In a pause a request goes on with other weights, and has the version of its beginning.
            made = server.engine.stats().num_generated_tokens
            task = server.start(200)
            await server.until(lambda: server.engine.stats().num_generated_tokens > made)
            await server.ok("POST", "/pause?mode=keep")
            await server.update(new)
            await server.ok("POST", "/resume")
            answer = await task
            mixed = answer["choices"][0]["token_ids"]
            assert answer["weights_version"] == 2
            assert len(mixed) == 200
            assert mixed not in (expected, other)
            assert (await server.ask(200))["choices"][0]["token_ids"] == other

    run(work())


def test_bad_weights_leave_the_old_ones(directories: list[Path], tmp_path: Path) -> None:
    async def work() -> None:
        async with serving(directories[0]) as server:
            expected = await server.tokens()

            async def refused(why: str, path: Path, **fields: Any) -> None:
                body = {"model_path": str(path), **fields}
                answer = await server.client.post("/update_weights_from_disk", json=body)
                assert answer.status_code == 400
                assert why in answer.json()["error"]["message"]
                assert await server.tokens() == expected
                [model] = (await server.ok("GET", "/v1/models"))["data"]
                assert model["weights_version"] == 0

            await refused("there is no file or directory", tmp_path / "nothing")
            shape = json.loads((directories[1] / "config.json").read_text())
            narrow = _changed(
                directories[1], tmp_path / "narrow", shape | {"intermediate_size": 96}
            )
            await refused("gate_proj.weight has shape [128, 64]", narrow)
            weights = narrow / "model.safetensors"
            save_file({name: _first_96(each) for name, each in load_file(weights).items()}, weights)
            await refused("w_down'] has the shape [96, 64]", narrow)
            theta = shape | {"rope_theta": 5e5}
            await refused("rope", _changed(directories[1], tmp_path / "theta", theta))
            cut = _changed(directories[1], tmp_path / "cut", shape)
            weights = cut / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
            await refused("model.safetensors", cut)
            await refused("weight_version", directories[1], weight_version="step-7")
            await refused("flush_cache", directories[1], flush_cache=False)

    run(work())


def _first_96(array: np.ndarray) -> np.ndarray:
    """The array with 96 in place of each size of 128."""
    return np.ascontiguousarray(array[tuple(slice(96 if n == 128 else n) for n in array.shape)])


def _changed(source: Path, target: Path, config: dict[str, Any]) -> Path:
    shutil.copytree(source, target)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_the_routes_are_there_with_the_option_only() -> None:
    paths = {path for _, path in (*DEV_ROUTES, *control_routes(NOBODY))}
    assert paths == DEV_PATHS
    for path in paths:
        answer = post(make_app(), path)
        assert answer.status_code == 404
        assert "--server-dev-mode" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/sleep?level=0", "level must be 1 or 2"),
        ("/sleep?mode=drain", "mode must be abort or wait or keep"),
        ("/wake_up?tags=weights&tags=all", "tags must be weights or kv_cache"),
        ("/pause?clear_cache=1", "clear_cache must be true or false"),
        ("/resume?mode=keep", "unknown parameter 'mode'"),
    ],
)
def test_what_is_not_supported_is_refused(path: str, why: str) -> None:
    routes = control_routes(NOBODY)
    app = create_app(FakeEngine(), byte_tokenizer(), ServerConfig(), more_routes=routes)
    answer = post(app, path)
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]
