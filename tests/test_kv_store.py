"""Which starts find each other's stored pages, which do not, and which can store none."""

from __future__ import annotations

import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flaxen import LLM, SamplingParams
from flaxen.definitions.definition import Definition
from flaxen.engine_args import EngineArgs
from flaxen.kv_store import open_store, opened_store
from flaxen.models.cache import State
from flaxen.prepared import prepare
from flaxen.scheduling.config import LoraLimits
from tests.e2e.tiny_model import write_tiny_model
from tests.engine.tiny import MODEL, PARAMS

SIZES: dict[str, Any] = {
    "max_model_len": 128, "max_num_seqs": 2, "max_num_batched_tokens": 64, "compile_sizes": (64,),
    "kv_cache_bytes": 2**20,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def open_for(args: EngineArgs, lora: LoraLimits | None = None) -> Any:
    return open_store(prepare(args, lambda stage, done, total: None, lora, None))


def folder(store: Path, model: Path, lora: LoraLimits | None = None, **more: Any) -> str:
    """The name of the folder in which a start with these arguments stores."""
    args = EngineArgs(model=str(model), kv_offload_dir=store, **{**SIZES, **more})
    before = {each.name for each in store.iterdir()} if store.exists() else set()
    open_for(args, lora).close()
    names = {each.name for each in store.iterdir()} - before
    assert len(names) <= 1
    return (
        names.pop() if names else max(store.iterdir(), key=lambda each: each.stat().st_mtime).name
    )


def test_only_what_computes_the_same_finds_the_same_folder(model: Path, tmp_path: Path) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    shutil.copytree(model, copy)  # with the times of the files
    first = folder(store, model)
    assert len(first) == 32
    assert folder(store, model, max_num_seqs=4) == first
    found = {first}
    others: list[dict[str, Any]] = [
        {"kv_cache_dtype": "int8"}, {"page_size": 32}, {"quantization": "int8"},
        {"lora": LoraLimits(max_lora_rank=8)}, {"dtype": "float32"}, {"backend": "reference"},
    ]  # fmt: skip
    for other in others:
        found.add(folder(store, model, **other))
    weights = copy / "model.safetensors"
    times = weights.stat().st_mtime_ns
    assert folder(store, copy) in found  # a copy is the same
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(times, times))
    found.add(folder(store, copy))  # other bytes, with the times of the old ones
    weights.write_bytes(model.joinpath("model.safetensors").read_bytes())
    os.utime(weights, ns=(times, times + 1))
    found.add(folder(store, copy))
    assert len(found) == len(list(store.iterdir()))
    assert len(found) >= 1 + len(others) - 1 + 2  # on some machines one of them is what auto is


def test_a_restart_finds_what_was_computed(model: Path, tmp_path: Path) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=8, logprobs=2, ignore_eos=True)
    prompt = "What was computed once need not be computed again, said the page to the disk."
    found = []
    for _ in range(2):
        llm = LLM(str(model), kv_offload_dir=tmp_path, **SIZES)
        (output,) = llm.generate(prompt, greedy)
        stats = llm.engine.stats()
        found.append((output.outputs[0].token_ids, output.outputs[0].logprobs, stats))
        del llm
        gc.collect()  # its end stores what is left
    assert found[0][:2] == found[1][:2]
    assert (found[0][2].num_stored_hits, found[1][2].num_stored_hits) == (0, len(prompt) // 16 * 16)
    assert (tmp_path / next(tmp_path.iterdir())).stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in tmp_path.glob("*/*.pages")} == {0o600}


def test_an_engine_that_can_not_be_built_leaves_the_directory_to_the_next(
    model: Path, tmp_path: Path
) -> None:
    prepared = prepare(
        EngineArgs(model=str(model), kv_offload_dir=tmp_path, **SIZES),
        lambda stage, done, total: None, None, None,
    )  # fmt: skip
    for _ in range(2):
        with pytest.raises(OSError, match="the weights are cut"), opened_store(prepared):
            raise OSError("the weights are cut")


def test_what_can_store_nothing_says_so(model: Path, tmp_path: Path) -> None:
    def error(**more: Any) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is returned
            open_for(EngineArgs(model=str(model), **{**SIZES, **more}))
        return str(caught.value)

    assert open_for(EngineArgs(model=str(model), **SIZES)) is None
    assert "kv_offload_bytes must be at least 0 and" in error(kv_offload_bytes=-1)
    assert "there is no directory: name one with kv_offload_dir" in error(kv_offload_dir_bytes=9)
    large = error(kv_offload_bytes=2**60)
    assert "free beside the weights and a KV cache of 1.0 MiB (--kv-cache-size): lower it" in large
    off = error(kv_offload_bytes=10, enable_prefix_caching=False)
    assert off.startswith("kv_offload_bytes stores pages for later prompts, and prefix caching is")
    definition = Definition(name="mine", model=MODEL, params=PARAMS, tokenizer=model)
    args = EngineArgs(model="mine", kv_offload_dir=tmp_path, **SIZES)
    prepared = prepare(args, lambda stage, done, total: None, None, definition)
    with pytest.raises(ValueError, match="kv_offload_dir is for models in files, and mine is a"):
        open_store(prepared)
    memory = open_store(
        replace(prepared, args=replace(args, kv_offload_dir=None, kv_offload_bytes=9))
    )
    assert memory is not None
    memory.close()
    state = tuple(replace(each, spec=State(shapes=((2, 2),))) for each in prepared.config.groups)
    stateful = replace(prepared, config=replace(prepared.config, groups=state, max_num_seqs=1))
    with pytest.raises(
        ValueError, match="has layers with a state, beside which no prefix is found"
    ):
        open_store(stateful)
