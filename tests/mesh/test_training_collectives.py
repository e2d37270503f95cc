"""What the devices of a mesh send each other in a training step, counted in the compiled program,
and what each of them computes.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.families.hf import first
from flaxen.models.attention_impls import causal
from flaxen.models.layers.mlp import DenseMlp
from flaxen.models.model import AttentionSpec
from flaxen.training.full import full
from flaxen.training.layout import lay_batch
from flaxen.training.loss import next_token
from flaxen.training.step import start
from tests.engine.tiny import MODEL, MODEL_CONFIG, PARAMS
from tests.mesh.meshes import on_mesh
from tests.mesh.training import FLOAT32, params_on
from tests.training.tiny import make, random_batch

_COLLECTIVE = re.compile(
    r" = (?P<shapes>.*?) "
    r"(?P<kind>all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("
    r".*replica_groups=(\[\d+,1\]|\{\{\d+\}|(?P<several>)).*op_name=\"(?P<name>[^\"]*)\""
)
NUM_LAYERS, VOCAB = len(MODEL_CONFIG.layers), MODEL_CONFIG.vocab_size


class Collective(NamedTuple):
    """One collective of a compiled program."""

    kind: str
    name: str  # what it was traced from
    shapes: tuple[tuple[int, ...], ...]


def collectives(mesh: str) -> list[Collective]:
    """The collectives between two devices or more, in the gradient of one microbatch."""
    model = on_mesh(mesh, MODEL)
    step = make(full(model, dtype=FLOAT32), next_token(model), name="sgd")
    state = start(step, params_on(model, PARAMS), 0)
    compiled = step.accumulate.lower(
        *(step.zeros(state.params), state.params, step.prepare(state.params), None),
        lay_batch(step.trainable.placement, random_batch(0, 8)),
        *(state.key, state.step, np.int32(0), np.ones(1, np.float32)),
    ).compile()
    found = []
    for line in compiled.as_text().splitlines():
        match = _COLLECTIVE.search(line)
        if match and match["several"] is not None:
            shapes = re.findall(r"\w\d+\[([\d,]*)\]", match["shapes"])
            sizes = tuple(tuple(int(n) for n in shape.split(",") if n) for shape in shapes)
            found.append(Collective(match["kind"], match["name"], sizes))
    return found


@pytest.fixture(scope="module")
def over_tensor() -> list[Collective]:
    return collectives("tensor=2")


@pytest.fixture(scope="module")
def over_fsdp() -> list[Collective]:
    return collectives("fsdp=4")


def test_a_layer_sums_twice_each_way(over_tensor: list[Collective]) -> None:
    """Forward after attention's output and after the MLP's, backward before q, k, v and before
    gate and up.
    """
    in_layers = [each for each in over_tensor if "jit(_layer)" in each.name]
    assert {each.kind for each in in_layers} == {"all-reduce"}
    backward = ["transpose" in each.name for each in in_layers]
    assert Counter(backward) == {False: 2 * NUM_LAYERS, True: 2 * NUM_LAYERS}


def test_no_weights_and_no_logits_are_gathered(over_tensor: list[Collective]) -> None:
    assert {each.kind for each in over_tensor} == {"all-reduce"}
    sizes = {shape[-1] for each in over_tensor for shape in each.shapes if shape}
    assert not sizes & {VOCAB, VOCAB // 2}


def test_weights_are_gathered_for_use_and_again_in_the_backward_pass(
    over_fsdp: list[Collective],
) -> None:
    gathers = [each for each in over_fsdp if each.kind == "all-gather"]
    matrices = Counter(each.shapes[0] for each in gathers if len(each.shapes[0]) == 2)
    D, F, table = (
        MODEL_CONFIG.model_dim,
        first(MODEL_CONFIG, DenseMlp).mlp_dim,
        (VOCAB, MODEL_CONFIG.model_dim),
    )
    assert matrices == {
        (D, F): 2 * 3 * NUM_LAYERS,  # q, gate, up
        (D, 32): 2 * 2 * NUM_LAYERS,  # k, v
        (F, D): 2 * 2 * NUM_LAYERS,  # o, down
        table: 1,  # the loss, where one pass ends and the other begins, has it all the time
    }


def test_gradients_are_summed_once_and_activations_stay(over_fsdp: list[Collective]) -> None:
    """On a CPU XLA adds a gradient up everywhere and takes a part; elsewhere it reduce-scatters."""
    sums = [each for each in over_fsdp if each.kind != "all-gather"]
    assert {each.kind for each in sums} == {"all-reduce"}
    shapes = [shape for each in sums for shape in each.shapes]
    assert max(map(len, shapes)) == 2
    assert shapes.count((VOCAB, MODEL_CONFIG.model_dim)) == 2  # as an embedding, and in the loss
    assert sum(len(shape) == 2 for shape in shapes) == 2 + 7 * NUM_LAYERS


def test_along_context_a_device_computes_its_own_queries() -> None:
    """Operations and memory of attention and its gradient fall by the number of devices."""
    shape = (1, 512)
    q, k = (jnp.ones((*shape, heads, 16), jnp.float32) for heads in (4, 2))

    def cost(mesh: str) -> tuple[float, float]:
        model = on_mesh(mesh)
        placement = model.placement
        assert placement is not None

        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            attend = causal(jnp.ones(shape, jnp.int32), model.backend, placement)
            return attend(AttentionSpec(), q, k, v, None)[0].sum()

        laid = placement.sharding(("batch", "length"), shape)
        given = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=laid) for x in (q, k, k)]
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*given).compile()
        analysis = compiled.cost_analysis()
        return analysis["flops"], compiled.memory_analysis().temp_size_in_bytes

    flops, memory = cost("data=1")
    own_flops, own_memory = cost("context=4")
    assert own_flops < 0.35 * flops
    assert own_memory < 0.35 * memory
