"""A definition in a file of the user's own, behind the command line and the OpenAI server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import flaxen
from flaxen.cli.main import main
from flaxen.definitions.user_definition import find_definition
from tests.cli.tiny_definition import write_definition
from tests.e2e.serving import ids, serve

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_jax.py"

pytestmark = pytest.mark.slow


def test_generate_runs_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--prompt", "Once", "--max-tokens", "4", "--max-num-seqs", "2"]
    assert main(["generate", f"{EXAMPLE}:definition", *arguments]) == 0
    assert capsys.readouterr().out.strip()


def test_the_server_runs_a_file(tmp_path: Path) -> None:
    path = f"{EXAMPLE}:definition"
    options = ("--max-num-seqs", "2")
    log = tmp_path / "log"
    with serve(tmp_path / "cache", log, *options, path=path, model="plain-jax") as server:
        assert [model.id for model in server.openai.models.list().data] == ["plain-jax"]
        once, again = (ids(server, "Once", max_tokens=4) for _ in range(2))
        assert once == again
        assert len(once) == 4


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "make", "has no function make"),
        ("def make(): return 3", "make", "returned a int: it must return a flaxen.Definition"),
    ],
)
def test_what_is_no_definition_is_refused(
    tmp_path: Path, text: str, name: str, message: str
) -> None:
    file = tmp_path / "own.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_definition(f"{file}:{name}")


def test_other_names_are_no_files_to_run(tmp_path: Path) -> None:
    assert find_definition("smollm2-135m") is None
    assert find_definition("org/model") is None
    with pytest.raises(ValueError, match="does not exist"):
        find_definition(f"{tmp_path}/none.py:make")


@pytest.mark.parametrize("serves", ["LLM", "AsyncLLM"])
def test_both_ways_from_python_take_a_definition(tmp_path: Path, serves: str) -> None:
    definition = find_definition(write_definition(tmp_path))
    assert definition is not None
    sampling = flaxen.SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    if serves == "LLM":
        (output,) = flaxen.LLM(definition, max_num_seqs=2).generate("the quick", sampling)
        assert len(output.outputs[0].token_ids) == 3
        return

    async def ask() -> int:
        llm = flaxen.AsyncLLM(definition, max_num_seqs=2)
        try:
            async for output in llm.generate("the quick", sampling, "one"):
                found = output
            return len(found.outputs[0].token_ids)
        finally:
            await llm.shutdown()

    assert asyncio.run(ask()) == 3
