"""The file of a configuration: what is refused at the start, and how it is replaced."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from flaxen.routing.attaching import proxy_app
from flaxen.routing.file import RouterFile
from flaxen.routing.http_client import HttpClient
from flaxen.routing.service import RoutingService
from flaxen.server.config import ServerConfig
from tests.routing.fakes import FILE, with_plugins
from tests.server.clients import get, run

PLAIN = FILE.replace("MORE", "")
_HERE = "modelRefs: [{model: large}, {model: other}]"


async def compile_file(path: Path, text: str, served: tuple[str, ...] = ()) -> RoutingService:
    path.write_text(text)
    file = RouterFile(path=path, environment={}, served=served)
    client = HttpClient()
    router = await file.compile(file.read(), client)
    return RoutingService(router=router, config=ServerConfig())


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "{type: keyword, name: sums}",
            "{type: domain, name: law}",
            "the recipe default reads domain:law, which needs a model for signals, and there is "
            "none here: remove the conditions that name it",
        ),
        (
            _HERE,
            _HERE + "\n      algorithm: {type: knn}",
            "the recipe default has the algorithm knn, which compares requests to answered ones: "
            "name their file in global.router.model_selection.ml.knn.pretrained_path",
        ),
        (
            _HERE,
            _HERE + "\n      plugins: [{type: response_cache, configuration: {enabled: true}}]",
            "the recipe default compares requests by embeddings, which need a model for signals",
        ),
        (
            _HERE,
            _HERE + "\n      plugins: [{type: shadow_dispatch, configuration: "
            "{enabled: true, model: large, capture_response_body: true}}]",
            "has shadow_dispatch with capture_response_body, and answers are not kept: remove it",
        ),
        (
            'backend_refs: [{endpoint: "large:1"}]',
            "backend_refs: []",
            "the model large is not served in this process, and has no backend_refs",
        ),
        (
            'backend_refs: [{endpoint: "large:1"}]',
            'backend_refs: [{endpoint: "large:1", api_key_env: LARGE_KEY}]',
            "the environment has no LARGE_KEY, the api_key_env of large: set it",
        ),
        (
            _HERE,
            _HERE + "\n      plugins: [{type: router_replay, configuration: "
            "{capture_response_body: true}}]",
            "has router_replay with capture_response_body, and the log has no answers: remove it",
        ),
        ("version: v0.3", "version: v0.3\nlisteners: [{port: 1}, {port: 2}]", "2 listeners"),
    ],
)
def test_what_can_not_be_served_is_refused(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in PLAIN
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        run(compile_file(tmp_path / "router.yaml", PLAIN.replace(before, after, 1)))


def test_a_modality_needs_keywords(tmp_path: Path) -> None:
    rule = PLAIN.replace("    keywords:\n", "    modality: [{name: AR}]\n    keywords:\n")
    text = rule.replace("{type: keyword, name: sums}", "{type: modality, name: AR}")
    with pytest.raises(ValueError, match=r"reads modality:AR, which .*: write method: keyword"):
        run(compile_file(tmp_path / "router.yaml", text))
    method = "\nglobal: {model_catalog: {modules: {modality_detector: {method: keyword}}}}"
    run(compile_file(tmp_path / "router.yaml", text + method))


def test_a_shadow_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    nowhere = "    - {name: nowhere}\nrouting:"
    plugin = "{type: shadow_dispatch, configuration: {enabled: true, model: nowhere}}"
    text = with_plugins(plugin)(PLAIN.replace("routing:", nowhere, 1))
    with pytest.raises(ValueError, match="the model nowhere is not served in this process, and"):
        run(compile_file(tmp_path / "router.yaml", text))
    run(compile_file(tmp_path / "router.yaml", text.replace("enabled: true", "enabled: false")))


def test_a_changed_file_is_used_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "router.yaml"

    async def work() -> None:
        service = await compile_file(path, PLAIN)
        proxy_app(service)  # has the metrics
        first = service.router
        watching = asyncio.create_task(
            RouterFile(path=path, environment={}, served=()).watch(service, HttpClient(), 0.01)
        )
        await asyncio.sleep(0.05)
        assert service.router is first
        path.write_text(PLAIN.replace("[sum, integral]", "[sum, derivative]"))
        while service.router is first:
            await asyncio.sleep(0.01)
        second = service.router
        path.write_text(PLAIN.replace("name: sums, operator", "name: sums, operater"))
        while not service.stale:
            await asyncio.sleep(0.01)
        assert service.router is second
        assert f"{path}, line 12:" in service.stale
        path.write_text(PLAIN.replace("version: v0.3", "version: v0.3\nlisteners: [{port: 1}]"))
        while "listeners can't change" not in service.stale:
            await asyncio.sleep(0.01)
        path.write_text(PLAIN)
        while service.stale:
            await asyncio.sleep(0.01)
        assert service.router not in (first, second)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    run(work())


def test_metrics_say_whether_the_file_is_current(tmp_path: Path) -> None:
    service = run(compile_file(tmp_path / "router.yaml", PLAIN))
    app = proxy_app(service)
    assert "llm_router_config_is_current 1.0" in get(app, "/metrics").text
    service.stale = "wrong"
    assert "llm_router_config_is_current 0.0" in get(app, "/metrics").text
