"""The KV cache of an accelerator: what its memory leaves beside the weights and the steps."""

from __future__ import annotations

from functools import partial

import jax
import jax.errors
import jax.numpy as jnp
import pytest

from flaxen.build import device_errors
from flaxen.execution.rows import empty_rows
from flaxen.execution.step import empty_cache, run_step
from flaxen.execution.step_input import StepLayout
from flaxen.execution.step_needs import NO_NEEDS
from flaxen.execution.step_options import StepOptions
from flaxen.execution.step_sizes import StepSizes
from flaxen.kernels.backend import Backend
from flaxen.memory.cache_plan import CachePlan, PoolReason, plan_cache
from flaxen.memory.device_memory import DeviceMemory
from flaxen.memory.model_cache import beside_stored, share_of_host
from flaxen.memory.step_memory import step_bytes
from flaxen.models.cache import Full, Sliding, attention_only
from flaxen.models.decoder import decoder
from flaxen.models.params import is_spec
from flaxen.scheduling.cache.sizes import CacheSizes
from tests.mesh.meshes import placement
from tools.decoders import uniform_decoder

GIB = 2**30
# Llama-3.1-8B: 32 layers of 8 heads of 128.
LLAMA = CacheSizes(
    specs=[Full(num_kv_heads=8, head_dim=128)] * 32,
    page_size=16,
    itemsize=2,
    chunk=2048,
    max_num_seqs=256,
)
TOKEN = 128 * 2**10  # bytes, in all layers


def memory(limit: float, params: float = 15, step: float = 2, share: float = 0.9) -> DeviceMemory:
    return DeviceMemory(
        limit_bytes=int(limit * GIB),
        utilization=share,
        param_bytes=int(params * GIB),
        step_bytes=int(step * GIB),
    )


def plan(
    device: DeviceMemory, asked_len: int | None = None, asked_bytes: int | None = None
) -> CachePlan:
    return plan_cache(
        LLAMA,
        131_072,
        asked_len=asked_len,
        asked_bytes=asked_bytes,
        free_bytes=GIB,
        device=device,
    )


def test_the_pool_is_what_is_left() -> None:
    made = plan(memory(80))
    assert made.pool_reason is PoolReason.DEVICE_MEMORY
    assert made.num_bytes == (72 - 17) * GIB
    assert (made.max_model_len, made.is_cut) == (131_072, False)
    assert made.num_tokens == made.num_bytes // TOKEN
    assert plan(memory(80, share=0.5)).num_bytes == (40 - 17) * GIB


def test_the_longest_context_that_fits_is_taken() -> None:
    made = plan(memory(24, share=1))
    assert made.num_bytes == 7 * GIB
    assert (made.max_model_len, made.is_cut) == (7 * GIB // TOKEN, True)
    assert plan(memory(24, share=1), asked_len=8192).max_model_len == 8192


def test_a_window_leaves_more_for_the_context() -> None:
    sliding = [Sliding(num_kv_heads=8, head_dim=128, window=4096)] * 16 + LLAMA.specs[:16]
    sizes = CacheSizes(specs=sliding, page_size=16, itemsize=2, chunk=2048, max_num_seqs=256)
    made = plan_cache(sizes, 131_072, asked_len=None, asked_bytes=None, device=memory(24, share=1))
    assert made.max_model_len > 7 * GIB // TOKEN


def test_what_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(
        ValueError,
        match=r"0\.9 of the device's 16,384\.0 MiB: beside weights of 15,360\.0 MiB and 2,048\.0 "
        r"MiB for steps that leaves 0\.0 MiB .* one sequence of 1 tokens needs 2\.0 MiB\. Take a",
    ):
        plan(memory(16))
    with pytest.raises(ValueError, match=r"one sequence of 131072 tokens needs 16,384\.0 MiB"):
        plan(memory(24), asked_len=131_072)


def test_a_size_that_was_asked_for_is_taken() -> None:
    made = plan(memory(80), asked_bytes=GIB, asked_len=4096)
    assert (made.pool_reason, made.num_bytes) == (PoolReason.ASKED, GIB)


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_utilization_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1, got"):
        memory(80, share=share)


def test_a_step_takes_no_more_than_the_estimate() -> None:
    """Without the constant that libraries get, against what XLA says of the compiled step."""
    num_tokens, vocab_size = 256, 4000
    model = decoder(
        uniform_decoder(
            vocab_size=vocab_size,
            model_dim=128,
            mlp_dim=512,
            num_layers=1,
            num_heads=4,
            num_kv_heads=2,
            head_dim=32,
            max_position=512,
        )
    )  # fmt: skip
    sizes = StepSizes(max_num_seqs=64, max_num_batched_tokens=num_tokens, compiled=(num_tokens,))
    estimate = step_bytes(model, sizes, itemsize=4, max_model_len=512) - 2**28
    groups = CacheSizes(
        specs=attention_only(model.cache_specs), page_size=16, itemsize=4, chunk=num_tokens,
        max_num_seqs=64,
    ).divide(2**22, 512)  # fmt: skip
    layout = StepLayout(num_rows=64, pages_per_seq=(32,), num_spec_tokens=0)
    params = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), model.param_specs,
        is_leaf=is_spec,
    )  # fmt: skip
    rows = jax.eval_shape(lambda: empty_rows(64, 512, vocab_size))
    cache = jax.eval_shape(lambda: empty_cache(model, groups, 16, jnp.dtype("float32")))
    packed = layout.pack([], min(64, num_tokens))
    step = jax.jit(partial(run_step, model, layout, 20, num_tokens), donate_argnums=(2, 3))
    compiled = step.lower(
        params, rows._replace(tokens=jnp.zeros((0, 0), jnp.int32)), rows.tokens, cache, packed,
        NO_NEEDS, StepOptions(),
    ).compile()  # fmt: skip
    measured = compiled.memory_analysis().temp_size_in_bytes
    assert estimate / 20 < measured < estimate


def test_a_first_step_that_fails_says_how_the_memory_was_planned() -> None:
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 4GiB")
    with (
        pytest.raises(
            ValueError,
            match=r"not make its first step: RESOURCE_EXHAUSTED: 4GiB\. The KV cache has 55\.0 GiB "
            r"there, beside weights of 15\.0 GiB: if memory ran out, lower gpu_memory_utilization",
        ),
        device_errors(plan(memory(80))),
    ):
        raise error
    on_the_host = plan_cache(LLAMA, 4096, asked_len=None, asked_bytes=None)
    with pytest.raises(jax.errors.JaxRuntimeError), device_errors(on_the_host):
        raise error


def test_virtual_devices_share_the_hosts_memory() -> None:
    assert share_of_host(10 * GIB, GIB, 1) == 9 * GIB
    assert share_of_host(10 * GIB, GIB, 4) == int(1.5 * GIB)
    assert share_of_host(None, GIB, 4) is None


def test_stored_pages_take_of_the_hosts_memory() -> None:
    assert beside_stored(10 * GIB, 3 * GIB, 7 * GIB) == 7 * GIB
    assert beside_stored(None, 3 * GIB, GIB) is None
    assert beside_stored(GIB, 0, 7 * GIB) == GIB  # the weights are refused elsewhere
    with pytest.raises(ValueError, match=r"is 3,072\.0 MiB, and the machine has 2,048\.0 MiB of"):
        beside_stored(10 * GIB, 3 * GIB, 8 * GIB)
    assert beside_stored(10 * GIB, 3 * GIB, 4 * GIB, 3 * GIB) == 7 * GIB
    with pytest.raises(
        ValueError,
        match=r"1,024\.0 MiB of memory free beside the weights and a KV cache of 5,120\.0 MiB "
        r"\(--kv-cache-size\): lower it, or end",
    ):
        beside_stored(10 * GIB, 3 * GIB, 4 * GIB, 5 * GIB)


def test_a_mesh_divides_what_steps_take() -> None:
    """The widest product and the logits are divided; each device has all rows."""
    config = uniform_decoder(
        vocab_size=1024,
        model_dim=64,
        mlp_dim=512,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        windows=(None, None),
        tied_embeddings=True,
        max_position=512,
    )
    model, sizes = (
        decoder(config),
        StepSizes(max_num_seqs=8, max_num_batched_tokens=64, compiled=(64,)),
    )
    on_two = model.on(Backend.REFERENCE, placement("tensor=2"))
    alone, divided = (
        step_bytes(each, sizes, itemsize=4, max_model_len=512) for each in (model, on_two)
    )
    activations, logits, table = 64 * 512 * 6 * 4, 8 * 1024 * 4 * 4, 1024 * 64 * 4
    assert alone - divided == (activations + logits + table) // 2
