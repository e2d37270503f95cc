"""Adapters of transformers' classes: peft's own files, read, written and served."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import flaxen
from flaxen.bridges.torch.transformers import from_transformers
from flaxen.definitions.torch.checkpoint import open_torch
from flaxen.hub.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from flaxen.kernels.choice import choose_backend
from flaxen.models import attention_impls
from flaxen.models.adapters import lora_targets, with_adapters
from flaxen.models.model import Model, Params
from flaxen.scheduling.config import LoraLimits
from flaxen.serving.adapters import ServedAdapters
from flaxen.weights.adapters.adapter import Adapter, merge_adapter
from flaxen.weights.adapters.peft import load_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.bridges.torch_models import make
from tests.bridges.words import save_tokenizer
from tests.models.golden import logits_of
from tests.weights.adapters.made import random_adapter

pytestmark = pytest.mark.slow
peft_warns = pytest.mark.filterwarnings("ignore")  # of what will be deprecated
TOKENS = np.random.default_rng(0).integers(1, 256, 24)
TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


def adapter_of(model: Model, *parts: str, **options: Any) -> Adapter:
    return random_adapter(model, targets=lora_targets(model, *parts), **options)


def ours(model: Model, params: Params, adapter: Adapter) -> np.ndarray:
    """The scores [T, V] of a definition with an adapter."""
    shape = (1, len(TOKENS))
    stack = {"layers": [{name: _stacked(ab) for name, ab in layer.items()}
                        for layer in adapter.layers]}  # fmt: skip
    scales = jnp.full(1, adapter.config.scale, jnp.float32)
    given = with_adapters(params, stack, scales, jnp.zeros(shape, jnp.int32))
    tokens = jnp.asarray(TOKENS, jnp.int32)[None]
    positions = jnp.arange(len(TOKENS), dtype=jnp.int32)[None]
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(
        given, tokens, positions, attention_impls.causal(None, model.backend), cache
    )
    return np.asarray(model.unembed(given, hidden)[0])


def _stacked(pair: Any) -> dict[str, jnp.ndarray]:
    return {part: jnp.asarray(pair[part])[None] for part in "ab"}


def theirs(module: Any) -> np.ndarray:
    with torch.no_grad():
        scores: np.ndarray = module(torch.from_numpy(TOKENS)[None]).logits[0].numpy()
    return scores


def test_files_have_the_names_of_transformers_modules(tmp_path: Path) -> None:
    model, _ = from_transformers(make("Llama"))
    adapter = adapter_of(model, use_rslora=True)
    save_adapter(tmp_path, adapter, "org/base", model=model)
    sizes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (64, 32), "self_attn.v_proj": (64, 32),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (64, 128), "mlp.up_proj": (64, 128),
        "mlp.down_proj": (128, 64),
    }  # fmt: skip
    expected = {}
    for index in range(2):
        for name, (num_in, num_out) in sizes.items():
            prefix = f"base_model.model.model.layers.{index}.{name}"
            expected[f"{prefix}.lora_A.weight"] = (3, num_in)
            expected[f"{prefix}.lora_B.weight"] = (num_out, 3)
    tensors = load_file(tmp_path / ADAPTER_WEIGHTS)
    assert {name: each.shape for name, each in tensors.items()} == expected
    assert {each.dtype for each in tensors.values()} == {np.dtype(np.float32)}
    fields = json.loads((tmp_path / ADAPTER_CONFIG).read_text())
    assert fields["target_modules"] == sorted(
        f"model.layers.{index}.{name}" for index in range(2) for name in sizes
    )
    assert (fields["peft_type"], fields["r"], fields["use_rslora"]) == ("LORA", 3, True)
    loaded = load_adapter(tmp_path, model)
    assert loaded.config == adapter.config
    for name, pair in adapter.layers[0].items():
        for part in "ab":
            np.testing.assert_array_equal(loaded.layers[0][name][part], pair[part])


def test_our_decoder_reads_the_files_of_its_definition_and_the_other_way(tmp_path: Path) -> None:
    make("Llama").save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    opened, decoder = (
        open_torch(tmp_path / "base", choose_backend()),
        open_checkpoint(tmp_path / "base"),
    )
    save_adapter(tmp_path / "one", adapter_of(opened.model), model=opened.model)
    save_adapter(tmp_path / "two", random_adapter(decoder.model, seed=1))
    params = decoder.load_params(jnp.dtype("float32"))
    for name in ("one", "two"):
        merged = merge_adapter(params, load_adapter(tmp_path / name, decoder.model))
        expected = logits_of(decoder.model, merged, TOKENS)
        found = ours(opened.model, opened.params, load_adapter(tmp_path / name, opened.model))
        np.testing.assert_allclose(found, expected, **TOLERANCE)


# GPT2 keeps its weights [in, out], and Phi3 several projections in one.
@peft_warns
@pytest.mark.parametrize("name", ["Llama", "GPT2", "Phi3"])
def test_peft_computes_the_same_with_our_adapters(tmp_path: Path, name: str) -> None:
    peft: Any = pytest.importorskip("peft")
    model, params = from_transformers(make(name))
    adapter = adapter_of(model)
    save_adapter(tmp_path, adapter, model=model)
    expected = theirs(peft.PeftModel.from_pretrained(make(name), tmp_path).eval())
    np.testing.assert_allclose(ours(model, params, adapter), expected, **TOLERANCE)
    assert np.abs(expected - theirs(make(name))).max() > 0.1


@peft_warns
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("Llama", ["q_proj", "v_proj"]),
        ("Llama", "all-linear"),
        ("GPT2", ["c_attn"]),
        ("Phi3", ["qkv_proj", "layers.1.mlp.down_proj"]),
    ],
)
def test_we_compute_the_same_with_adapters_of_peft(
    tmp_path: Path, name: str, targets: list[str]
) -> None:
    peft: Any = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    wrapped = peft.get_peft_model(make(name), config).eval()
    wrapped.save_pretrained(tmp_path)
    model, params = from_transformers(make(name))
    adapter = load_adapter(tmp_path, model)
    np.testing.assert_allclose(ours(model, params, adapter), theirs(wrapped), **TOLERANCE)


def test_a_server_of_a_definition_loads_the_files_of_our_decoder(tmp_path: Path) -> None:
    make("Llama").save_pretrained(tmp_path / "base")
    save_tokenizer(tmp_path / "base")
    decoder = open_checkpoint(tmp_path / "base").model
    save_adapter(tmp_path / "files" / "one", random_adapter(decoder))
    adapters = ServedAdapters(
        limits=LoraLimits(max_loras=2, max_lora_rank=4),
        at_start=(("start", tmp_path / "files" / "one"),),
        directory=tmp_path / "files",
    )
    sampling = flaxen.SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    sizes: dict[str, Any] = {"dtype": "float32", "max_num_seqs": 2}

    async def say(llm: flaxen.AsyncLLM, adapter: str | None) -> list[int]:
        async for output in llm.generate("Once upon", sampling, str(adapter), adapter=adapter):
            last = output
        return list(last.outputs[0].token_ids)

    async def ask() -> list[list[int]]:
        llm = flaxen.AsyncLLM(str(tmp_path / "base"), impl="torch", lora=adapters.limits, **sizes)
        model = open_torch(tmp_path / "base", choose_backend()).model
        adapters.load(llm.engine, model, ("base",))
        files = adapters.files(model)
        assert files is not None
        llm.engine.load_adapter("later", files.read(tmp_path / "files" / "one"))
        said = [await say(llm, name) for name in (None, "start", "later")]
        await llm.shutdown()
        return said

    alone, start, later = asyncio.run(asyncio.wait_for(ask(), 300))
    limits = LoraLimits(max_loras=1, max_lora_rank=4)
    llm = flaxen.LLM(str(tmp_path / "base"), impl="flaxen", lora=limits, **sizes)
    llm.load_adapter("one", tmp_path / "files" / "one")
    expected = [
        list(llm.generate("Once upon", sampling, adapter=name)[0].outputs[0].token_ids)
        for name in (None, "one")
    ]
    assert [alone, start] == expected
    assert later == start != alone
