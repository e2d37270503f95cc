"""Models of PyTorch, unchanged: transformers' classes, and a module of one's own."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flaxen
from flaxen.bridges.torch.bridge import from_torch
from flaxen.bridges.torch.transformers import from_transformers
from flaxen.definitions.definition import Definition
from flaxen.definitions.torch.checkpoint import open_torch
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.kernels.paged_batch import PagedBatch
from flaxen.models import attention_impls, layer_cache
from flaxen.models.cache import attention_only
from flaxen.weights.checkpoint import open_checkpoint
from tests.bridges.paged import paged_scores
from tests.bridges.torch_models import Own, make
from tests.bridges.training import needs_kernels
from tests.bridges.words import byte_tokenizer, save_tokenizer

pytestmark = pytest.mark.slow
LENGTHS = (24, 11)
FAMILIES = ["Llama", "Qwen3", "Gemma2", "Phi3", "GPT2", "Olmo2", "Qwen3Moe"]


def prompts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, 256, length) for length in LENGTHS]


def by_torch(module: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = module(input_ids=torch.from_numpy(tokens)[None]).logits[0].numpy()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_torch(name: str) -> None:
    module = make(name)
    expected = [by_torch(module, tokens) for tokens in prompts()]
    model, params = from_transformers(module)
    definition = Definition(model=model, params=params, tokenizer=byte_tokenizer())
    given = definition.load_params(jnp.dtype("float32"), backend=choose_backend())
    whole = [(0, 0, 24)], [(1, 0, 11)]
    chunked = [(0, 0, 9)], [(0, 9, 24)], [(1, 0, 10)], [(1, 10, 11)]
    batched = [(1, 0, 11), (0, 0, 3)], [(0, 3, 24)]
    for steps in (whole, chunked, batched):
        for ours, theirs in zip(
            paged_scores(model, given, prompts(), list(steps)), expected, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=2e-4, rtol=2e-4)


def kernel_calls(jaxpr: Any) -> Counter[str]:
    """By the kernels' names."""
    found: Counter[str] = Counter()
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "ffi_call":
            found[eqn.params["target_name"]] += 1
        for each in eqn.params.values():
            inner = getattr(each, "jaxpr", each)
            found += kernel_calls(inner) if hasattr(inner, "eqns") else Counter()
    return found


@needs_kernels
@pytest.mark.parametrize(("name", "num_embeds"), [("Llama", 0), ("Qwen3", 1)])
def test_a_step_is_the_kernel_calls_of_our_decoder(
    name: str, num_embeds: int, tmp_path: Path
) -> None:
    directory = save(make(name), tmp_path)
    dtype, batch = jnp.dtype("bfloat16"), jnp.arange(16, dtype=jnp.int32)
    calls = []
    for source in (open_torch(directory, Backend.CPU), open_checkpoint(directory)):
        model = source.model.on(Backend.CPU)
        params = source.load_params(dtype, backend=Backend.CPU)
        cache = tuple(
            layer_cache.empty_layer(spec, 16, 16, dtype, backend=Backend.CPU)
            for spec in attention_only(model.cache_specs)
        )
        one_each = PagedBatch(
            kv_lens=batch + 1, page_table=batch[:, None], cu_q_lens=jnp.arange(17, dtype=jnp.int32)
        )
        step = jax.make_jaxpr(model.forward)(
            params, batch, batch, attention_impls.paged((one_each,), model.backend), cache
        )
        calls.append(kernel_calls(step.jaxpr))
    # Our decoder has its last norm in the unembedding.
    assert calls[0] - calls[1] == {"flaxen_rms_norm": 1}
    # An embedding that is not tied to the unembedding is an array here: its rows are XLA's.
    assert calls[1] - calls[0] == Counter(flaxen_embed=num_embeds)


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_greedy_text_is_that_of_our_decoder(name: str, tmp_path: Path) -> None:
    directory = save(make(name), tmp_path)
    sampling = flaxen.SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    texts = []
    for impl in ("auto", "torch"):
        llm = flaxen.LLM(str(directory), impl=impl, dtype="float32", max_num_seqs=2)
        outputs = llm.generate(["Once upon a time", "The answer"], sampling)
        texts.append([output.outputs[0].token_ids for output in outputs])
    assert texts[0] == texts[1]


def save(module: Any, directory: Path) -> Path:
    module.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def test_layers_that_bypass_the_registry_are_refused() -> None:
    with pytest.raises(ValueError, match="BloomForCausalLM has 2 layers, and 0 of them call"):
        from_transformers(make("Bloom"))


@needs_kernels
def test_a_module_of_ones_own() -> None:
    module = Own()
    model, params = from_torch(module, max_position=128)
    tokens = jnp.asarray(prompts()[0], jnp.int32)[None]
    positions = jnp.arange(24, dtype=jnp.int32)[None]
    hidden, _ = model.forward(
        params, tokens, positions, attention_impls.causal(None, model.backend), (None,)
    )
    with torch.no_grad():
        expected = module(*(torch.from_numpy(np.array(x)).long() for x in (tokens, positions)))
    np.testing.assert_allclose(model.unembed(params, hidden), expected.numpy(), atol=2e-4)
    assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.isfinite(leaf).all()), params["params"]))


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="only those run through PyTorch"):
        flaxen.LLM(str(file), impl="torch")
    with pytest.raises(ValueError, match="impl 'jax' is not supported: use auto, flaxen, torch"):
        flaxen.LLM(str(file), impl="jax")


def test_an_unknown_family_says_what_to_do(tmp_path: Path) -> None:
    fields = {"architectures": ["FooForCausalLM"], "model_type": "foo"}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=r"'FooForCausalLM' is not supported.*impl=torch"):
        flaxen.LLM(str(tmp_path), impl="flaxen")


@pytest.mark.parametrize(
    ("name", "experts"), [("GPT2", 0), ("Llama", 0), ("Qwen3", 0), ("Qwen3Moe", 2 * 2)]
)
def test_roles_are_what_torchs_modules_are(name: str, experts: int) -> None:
    module = make(name)
    model, _ = from_transformers(module)
    norms = {path for path, each in module.named_modules() if "Norm" in type(each).__name__}
    tables = {"wte", "wpe", "embed_tokens", "lm_head"}
    roles = {path: spec.role for path, spec in model.param_specs["params"].items()}
    for path, role in roles.items():
        owner, _, last = path.rpartition(".")
        if owner in norms or last == "bias":
            assert role == "vector", path
        elif owner.rpartition(".")[2] in tables:
            assert role == "table", path
        else:
            assert role == ("experts" if owner.endswith("experts") else "matrix"), path
    assert list(roles.values()).count("experts") == experts
