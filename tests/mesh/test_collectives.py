"""What the devices of a mesh send each other in a step, counted in the compiled program."""

from __future__ import annotations

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from flaxen.execution.compiled_step import abstract_state, jit_step, lower_step, step_layout
from flaxen.execution.programs import Program
from flaxen.execution.shapes import Shape
from flaxen.execution.step import shapes_of
from flaxen.kernels.backend import Backend
from flaxen.token_sampling.logprobs import compute_logprobs
from tests.engine.tiny import MODEL_CONFIG, ONE_SHAPE, PARAMS
from tests.mesh.meshes import on_mesh, placed, placement

_COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def collectives(text: str, part: str = "") -> Counter[str]:
    """How often each collective is in a compiled program, in the parts with this name."""
    found = [(_COLLECTIVE.search(line), line) for line in text.splitlines()]
    return Counter(match[1] for match, line in found if match and part in line)


@pytest.fixture(scope="module", params=["tensor=2", "tensor=6"])
def step(request: pytest.FixtureRequest) -> str:
    model = on_mesh(request.param)
    params = shapes_of(placed(PARAMS, placement(request.param)))
    state = abstract_state(model, ONE_SHAPE, params, jnp.dtype("float32"))
    program = Program(shape=Shape(num_tokens=64, num_seqs=16))
    step = jit_step(model, ONE_SHAPE)
    lowered = lower_step(step, step_layout(ONE_SHAPE), program, state, None)
    text: str = lowered.compile().as_text()
    return text


def test_a_layer_sums_twice(step: str) -> None:
    """Once after attention's output, once after the MLP's: the fewest for tensor parallelism."""
    assert collectives(step, "jit(_layer)") == {"all-reduce": 2 * len(MODEL_CONFIG.layers)}


def test_no_weights_and_no_logits_are_gathered(step: str) -> None:
    """Only the likeliest tokens of each part of the vocabulary, with their log-probabilities."""
    gathers = re.findall(r" = [a-z]\d+\[([\d,]*)\]\S* all-gather\(", step)
    assert len(gathers) in (1, 2), gathers  # the ids may be gathered by a sum
    for shape in gathers:
        num_rows, num_values = map(int, shape.split(","))
        assert (num_rows, num_values % 20) == (16, 0)
        assert num_values < MODEL_CONFIG.vocab_size
    assert collectives(step, "jit(_embed)") == {"all-reduce": 1}


def test_the_top_of_parts_is_the_top() -> None:
    logits = jax.random.randint(jax.random.key(0), (5, 60), 0, 9).astype(jnp.float32)
    tokens = jnp.arange(5)
    for num_top in (1, 4, 20):
        whole = compute_logprobs(logits, tokens, num_top, Backend.REFERENCE)
        found = compute_logprobs(logits, tokens, num_top, Backend.REFERENCE, placement("tensor=6"))
        assert (found.top_ids == whole.top_ids).all()
        assert (found.top_logprobs == whole.top_logprobs).all()
