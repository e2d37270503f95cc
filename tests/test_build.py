"""What is built: what does not fit is refused before the weights are read; what "auto" means."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import tokenizers

from flaxen import LLM, SamplingParams
from flaxen.build import Parts, build
from flaxen.definitions.definition import Definition
from flaxen.engine_args import EngineArgs, cache_dtype, check_batch_invariance
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import choose_backend
from flaxen.kernels.linear.packed import PackedLinear
from flaxen.models import attention_impls
from flaxen.models.cache import Full, Latent, Sliding, State
from flaxen.models.model import Params
from flaxen.prepared import prepare
from flaxen.protocol import Request
from flaxen.serving.announcement.facts import about_steps
from tests.engine.tiny import MODEL, request, run

GOLDEN = Path(__file__).parent / "models" / "goldens" / "llama_tied_biases"
SIZES: dict[str, Any] = {
    "max_model_len": 64, "max_num_seqs": 4, "max_num_batched_tokens": 16, "compile_sizes": (16,),
}  # fmt: skip
needs_kernels = pytest.mark.skipif(
    choose_backend() is not Backend.CPU, reason="the C++ kernels were not built"
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A golden with a tokenizer of bytes."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, tmp_path)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())[:128]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, [])
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


def weight_formats(parts: Parts) -> set[str]:
    """How the matrices are held."""
    leaves = jax.tree.leaves(parts.params, is_leaf=lambda node: isinstance(node, PackedLinear))
    return {
        leaf.format if isinstance(leaf, PackedLinear) else "plain"
        for leaf in leaves
        if len(leaf.shape) == 2
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"dtype": "float64"},
            "dtype 'float64' is not supported: use auto, float32 or bfloat16",
        ),
        (
            {"quantization": "q4"},
            "quantization 'q4' is not supported: use one of auto, none, int8, int4",
        ),
        ({"page_size": 24}, "page_size must divide 128, got 24"),
        ({"page_size": 0}, "page_size must divide 128, got 0"),
        (
            {"max_model_len": 10**6},
            "max_model_len is 1000000, and the model was made for",
        ),
        ({"max_model_len": 0}, "max_model_len must be at least 1, got 0"),
        ({"kv_cache_bytes": 0}, "KV cache of 0 bytes is smaller than one page"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, got 0"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens must be at least 1, got 0"),
        ({"kv_cache_bytes": 10}, "KV cache of 10 bytes is smaller than one page"),
        ({"max_num_batched_tokens": 8, "max_num_seqs": 9}, "must be at least max_num_seqs"),
        ({"gpu_memory_utilization": 0.5}, "is a share of a GPU's or TPU's memory, and this engine"),
        ({"gpu_memory_utilization": 2}, "must be above 0 and at most 1, got 2"),
        ({"device": "gpu"}, "the device 'gpu' is not known"),
        ({"device": "rocm"}, "the device rocm was asked for, but JAX has no plugin for it here"),
        ({"compile_sizes": (16,)}, "the largest of compile_sizes"),
    ],
)
def test_bad_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(EngineArgs(model=str(GOLDEN), **args))


def test_layers_with_windows_have_pages_of_their_own(model: str) -> None:
    """And answers beyond the window are those of the whole forward, greedily."""
    for file in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN.parent / "qwen2_windows" / file, model)
    parts = build(EngineArgs(model=model, dtype="float32", **SIZES))
    groups = {type(group.spec): group.layers for group in parts.engine.config.groups}
    assert groups == {Full: (0,), Sliding: (1, 2)}
    prompt = list(range(3, 43))  # the window is 8
    request = Request(
        request_id="r", prompt_token_ids=tuple(prompt),
        sampling=SamplingParams(temperature=0, max_tokens=16, ignore_eos=True),
    )  # fmt: skip
    parts.engine.add(parts.engine.check(request))
    tokens: list[int] = []
    while parts.engine.has_work:
        for event in parts.engine.step():
            tokens += event.token_ids
    ids = jnp.asarray([[*prompt, *tokens]])

    @jax.jit
    def greedy(params: Params, ids: jax.Array) -> jax.Array:
        attend = attention_impls.causal(None, parts.model.backend)
        cache = (None,) * len(parts.model.cache_specs)
        positions = jnp.arange(ids.shape[1])[None]
        hidden, _ = parts.model.forward(params, ids, positions, attend, cache)
        return jnp.argmax(parts.model.unembed(params, hidden)[0], axis=-1)

    assert tokens == greedy(parts.params, ids)[len(prompt) - 1 : -1].tolist()


def test_sums_of_one_order_are_promised_only_where_they_are(model: str) -> None:
    with pytest.raises(
        ValueError, match=r"batch_invariant .* on the backend reference XLA chooses"
    ):
        build(EngineArgs(model=model, backend="reference", batch_invariant=True))
    definition = Definition(model=MODEL, params=None, tokenizer=GOLDEN, name="mine")
    check_batch_invariance(definition, Backend.CPU)
    with pytest.raises(ValueError, match="mine is a definition, whose own sums are XLA's on a GPU"):
        check_batch_invariance(definition, Backend.GPU_INVARIANT)
    with pytest.raises(ValueError, match="leaves out CUDA graphs, and the backend reference has n"):
        build(EngineArgs(model=model, backend="reference", enforce_eager=True))


@pytest.mark.parametrize("name", ["int8", "fp8", "fp8_e4m3"])
def test_a_cache_of_eight_bits_takes_a_quarter_of_float32_and_its_scales(
    model: str, name: str
) -> None:
    args = EngineArgs(model=model, backend="reference", dtype="float32", **SIZES)
    parts = build(replace(args, kv_cache_dtype=name))
    plain = prepare(args, lambda stage, done, total: None, None, None)
    H = parts.model.cache_specs[0].head_dim  # type: ignore[union-attr]
    assert parts.cache_plan.num_bytes * 4 * H == plain.cache_plan.num_bytes * (H + 2)
    (output,) = run(parts.engine, [request("r", [3, 4, 5, 6], logprobs=0)])
    assert len(output.outputs[0].token_ids) == 12


def test_a_cache_that_the_backend_has_not_is_refused() -> None:
    message = "kv_cache_dtype 'fp8_e5m2' is not supported: use one of auto, float32, bfloat16, int8"
    with pytest.raises(ValueError, match=message):
        EngineArgs(model="any", kv_cache_dtype="fp8_e5m2")
    bfloat16 = jnp.dtype(jnp.bfloat16)
    with pytest.raises(ValueError, match="float32 was asked for, but the engine computes in bfloa"):
        cache_dtype("float32", bfloat16, MODEL.on(Backend.CPU))
    message = "int8 was asked for, .* tpu has no pages in it for heads of 16 with values of 16: use"
    with pytest.raises(ValueError, match=f"{message} auto, fp8$"):
        cache_dtype("int8", bfloat16, MODEL.on(Backend.TPU))
    plain = MODEL.on(Backend.CPU)
    latent = replace(plain, cache_specs=(*plain.cache_specs, Latent(rank=512, rope_dim=64)))
    with pytest.raises(
        ValueError, match=r"heads of 576 with values that are a part of .*: use auto$"
    ):
        cache_dtype("int8", bfloat16, latent)
    hybrid = replace(plain, cache_specs=(*plain.cache_specs, State(shapes=((2, 3),))))
    assert cache_dtype("int8", bfloat16, hybrid) == jnp.int8
    assert cache_dtype("bfloat16", bfloat16, plain) == bfloat16
    assert cache_dtype("fp8_e4m3", bfloat16, MODEL.on(Backend.CPU)) == jnp.float8_e4m3fn


@needs_kernels
def test_the_cpus_kernels_are_batch_invariant_already(model: str) -> None:
    parts = build(EngineArgs(model=model, batch_invariant=True, **SIZES))
    assert parts.model.backend is Backend.CPU
    assert any("as always with the CPU kernels" in fact.text for fact in about_steps(parts))


@needs_kernels
def test_small_pages_are_not_for_the_kernels() -> None:
    with pytest.raises(ValueError, match="a multiple of 16 on the backend cpu, got 8"):
        build(EngineArgs(model=str(GOLDEN), page_size=8))


@needs_kernels
@pytest.mark.parametrize(
    ("args", "dtype", "formats"),
    [
        ({}, "bfloat16", {"bfloat16"}),
        ({"dtype": "float32", "quantization": "none"}, "float32", {"float32"}),
        ({"quantization": "int8"}, "bfloat16", {"int8"}),
        ({"quantization": "int4", "dtype": "float32"}, "float32", {"int4", "int8"}),
    ],
)
def test_the_kernels_get_packed_weights(
    model: str, args: dict[str, Any], dtype: str, formats: set[str]
) -> None:
    parts = build(EngineArgs(model=model, **SIZES, **args))
    assert parts.dtype == jnp.dtype(dtype)
    assert weight_formats(parts) == formats


@pytest.mark.parametrize(
    ("args", "dtype"),
    [
        ({}, "float32"),
        ({"dtype": "bfloat16", "quantization": "none"}, "bfloat16"),
        ({"page_size": 4}, "float32"),
    ],
)
def test_xla_gets_plain_arrays(model: str, args: dict[str, Any], dtype: str) -> None:
    parts = build(EngineArgs(model=model, backend="reference", **SIZES, **args))
    assert parts.dtype == jnp.dtype(dtype)
    assert weight_formats(parts) == {"plain"}
    assert [fact.text for fact in about_steps(parts)] == ["compiled for 16 tokens"]
    assert {leaf.dtype for leaf in jax.tree.leaves(parts.params)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [("auto", {"temperature": 0, "max_tokens": 5}), ("vllm", {}), ("other", {"top_k": 3})],
)
def test_sampling_that_is_not_said_is_the_models_own(
    model: str, source: str, expected: dict[str, Any]
) -> None:
    directory = Path(model)
    (directory / "generation_config.json").write_text('{"temperature": 0, "max_new_tokens": 5}')
    (directory / "other").mkdir()
    (directory / "other" / "generation_config.json").write_text('{"top_k": 3}')
    source = str(directory / source) if source == "other" else source
    llm = LLM(model, **SIZES, generation_config=source)
    assert llm.get_default_sampling_params() == SamplingParams(**expected)
    if source == "auto":
        (unsaid,) = llm.generate([[1, 2, 3]])
        (greedy,) = llm.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=5))
        assert unsaid.outputs[0].token_ids == greedy.outputs[0].token_ids


def test_sampling_defaults_are_checked_before_the_weights_are_read() -> None:
    with pytest.raises(ValueError, match="generation_config is '/nowhere', and /nowhere does not"):
        build(EngineArgs(model=str(GOLDEN), generation_config="/nowhere"))
