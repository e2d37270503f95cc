"""What the server says when it is ready, and the reasons that it gives."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from rich.console import Console

from flaxen.job_routes.stores import StoresConfig, open_stores
from flaxen.kernels.backend import Backend
from flaxen.kernels.linear.weight import num_bytes
from flaxen.memory.cache_plan import CachePlan, plan_cache
from flaxen.memory.device_memory import DeviceMemory
from flaxen.models.cache import Full, State
from flaxen.protocol import AdapterInfo
from flaxen.scheduling.cache.sizes import CacheSizes
from flaxen.scheduling.config import LoraLimits
from flaxen.serving.announcement.context import about_context
from flaxen.serving.announcement.facts import (
    about_adapters,
    about_address,
    about_fine_tuning,
    about_memory,
    about_mesh,
    is_public,
    show_count,
)
from flaxen.serving.announcement.ready import log_ready, print_ready
from flaxen.serving.announcement.weights import about_weights, count_params
from flaxen.serving.fact import Fact
from flaxen.serving.logs import LogFormat, logging_to
from flaxen.serving.sizes import show_size
from flaxen.sharding.shape import MeshShape
from flaxen.tensors.packing.pack import Quantization
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.golden import GOLDENS

_SPECS = [Full(num_kv_heads=3, head_dim=64)] * 30  # SmolLM2-135M's: 22.5 KiB a token
_FACTS = (Fact(label="one", text="a " * 60, fields={"x": 1}), Fact(label="b", text="c", fields={}))


def plan(
    asked_len: int | None = None, asked_bytes: int | None = None, free_bytes: int | None = None
) -> CachePlan:
    sizes = CacheSizes(specs=_SPECS, page_size=16, itemsize=2, chunk=512, max_num_seqs=64)
    return plan_cache(
        sizes, 8192, asked_len=asked_len, asked_bytes=asked_bytes, free_bytes=free_bytes
    )


def texts(made: CachePlan) -> list[str]:
    return [fact.text for fact in about_context(made, 64)]


@pytest.mark.parametrize(
    ("quantization", "text"),
    [
        ("none", "bfloat16"),
        ("int8", "bfloat16, its weights in int8 (100%): 33.6 KiB of memory in place of 58.3 KiB"),
    ],
)
def test_quantized_weights_say_what_they_save(quantization: Quantization, text: str) -> None:
    checkpoint = open_checkpoint(GOLDENS / "llama_default")
    dtype = jnp.dtype("bfloat16")
    params = checkpoint.load_params(dtype, backend=Backend.CPU, quantization=quantization)
    fact = about_weights(params, count_params(checkpoint.model), dtype, dtype)
    assert (fact.label, fact.text) == ("dtype", text)
    assert fact.fields["weight_bytes"] == num_bytes(params)


def test_a_mesh_is_said_with_its_replicas() -> None:
    assert list(about_mesh(MeshShape())) == []
    (fact,) = about_mesh(MeshShape(tensor=4))
    assert (fact.label, fact.text) == ("mesh", "tensor=4, 4 devices")
    (fact,) = about_mesh(MeshShape(data=2, tensor=2))
    assert fact.text.startswith("data=2,tensor=2, 4 devices: 2 replicas of the model, each with a")
    assert fact.fields["num_replicas"] == 2


def test_a_context_that_is_cut_says_why_and_what_to_do() -> None:
    context, cache = texts(plan(asked_bytes=10 * 2**20))
    assert context == (
        "448 tokens: the model's is 8,192, but the KV cache of 10 MiB holds 448: "
        "--kv-cache-size 180MiB holds the whole"
    )
    assert cache == (
        "10 MiB, as --kv-cache-size says: 448 tokens, or 1 sequence of full length; 64 at most "
        "run at once"
    )
    assert texts(plan(asked_bytes=180 * 2**20))[0] == "8,192 tokens, the model's own"


def test_a_state_beside_which_no_prefix_is_cached_is_said() -> None:
    assert len(texts(plan())) == 2
    specs = [*_SPECS, State(shapes=((2, 8),))]
    sizes = CacheSizes(specs=specs, page_size=16, itemsize=2, chunk=512, max_num_seqs=64)
    *_, fact = about_context(plan_cache(sizes, 8192, asked_len=512, asked_bytes=None), 64)
    assert (fact.label, fact.fields) == ("prefixes", {"has_prefixes": False})
    assert fact.text.startswith("not cached: some layers keep a state")


def test_the_reasons_of_a_pool_that_nobody_asked_for() -> None:
    assert texts(plan())[1].startswith(
        "720 MiB, room for all sequences at 512 tokens and for one at full length: 32,768 tokens, "
    )
    context, cache = texts(plan(free_bytes=20 * 2**20))
    assert context.startswith("448 tokens: the model's is 8,192, but the KV cache of 10 MiB holds")
    assert cache.startswith("10 MiB, half of the memory that is free (--kv-cache-size): 448 tokens")
    context, cache = texts(plan(asked_len=512))
    assert context == "512 tokens, as --max-model-len says; the model's own is 8,192"
    assert cache.startswith("720 MiB, what all sequences need: 32,768 tokens, or 64 sequences")


def test_the_memory_of_a_device() -> None:
    sizes = CacheSizes(specs=_SPECS, page_size=16, itemsize=2, chunk=2048, max_num_seqs=256)
    device = DeviceMemory(limit_bytes=2**30, param_bytes=2**28, step_bytes=2**29)
    made = plan_cache(sizes, 8192, asked_len=None, asked_bytes=None, device=device)
    context, cache = texts(made)
    assert context == (
        "6,976 tokens: the model's is 8,192, for which 180 MiB of the device's memory would be "
        "needed, and 153.6 MiB are left (--gpu-memory-utilization, or a smaller or quantized model)"
    )
    assert cache.startswith(
        "153.6 MiB, what 0.9 of the device's 1 GiB leaves beside 256 MiB of weights and 512 MiB "
        "for steps (--gpu-memory-utilization): "
    )


def test_adapters() -> None:
    assert about_adapters(None, ()).text == "off (--enable-lora)"
    known = AdapterInfo(name="a", rank=8, created=0, is_on_device=False)
    unread = AdapterInfo(name="b", rank=8, created=0, is_on_device=False, is_in_memory=False)
    fact = about_adapters(LoraLimits(max_loras=4), [known, unread])
    assert fact.text == "up to 4 at once, of rank 16 or less; loaded: a"
    assert fact.fields == {"max_loras": 4, "adapters": ["a"]}


def test_fine_tuning(tmp_path: Path) -> None:
    assert about_fine_tuning(None).text == "off (--data-dir DIR)"
    with open_stores(StoresConfig(data_dir=tmp_path / "data")) as stores:
        assert about_fine_tuning(stores).text == f"{tmp_path}/data, with 0 models so far"


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("http://127.0.0.1:80", False),
        ("http://[::1]:80", False),
        ("http://0.0.0.0:80", True),
        ("http://[::]:80", True),
        ("http://192.168.0.7:80", True),
        ("unix:/tmp/socket", False),
    ],
)
def test_public_addresses(url: str, public: bool) -> None:
    assert is_public(url) is public
    [address, *pages] = about_address(url, has_key=False)
    assert ("other machines too" in address.text) is public
    assert "without an API key" in address.text
    assert len(pages) == (0 if url.startswith("unix") else 3)


def test_the_memory_of_the_process() -> None:
    [fact] = about_memory()
    assert 10**6 < fact.fields["resident_bytes"] < 10**11


def test_numbers_for_readers() -> None:
    assert [show_count(n) for n in (7, 134_515_008, 1_235_814_400)] == ["7", "135M", "1.24B"]
    assert [show_size(n) for n in (7, 96_571_392, 2**30)] == ["7 bytes", "92.1 MiB", "1 GiB"]


def test_lines_are_not_wrapped() -> None:
    stream = io.StringIO()
    print_ready(Console(file=stream, width=40), _FACTS, "m is served on " + "u" * 60)
    assert stream.getvalue().splitlines() == [
        "one          " + "a " * 60,
        "b            c",
        "m is served on " + "u" * 60,
    ]


@pytest.mark.parametrize("facts", [(), _FACTS])
def test_json_has_one_line_of_facts_and_one_that_it_is_ready(facts: tuple[Fact, ...]) -> None:
    stream = io.StringIO()
    with logging_to(stream, LogFormat.JSON, "info" if facts else "warning"):
        log_ready(facts, "m", "http://h:1", 2.0)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["x"] for line in lines[:-1]] == ([1] if facts else [])
    ready = lines[-1]
    assert ready["msg"] == "m is served on http://h:1 (ready in 2.0 s)"
    assert (ready["model"], ready["url"], ready["seconds"]) == ("m", "http://h:1", 2.0)
