"""What `from_function` takes: parameters, outputs and positions of many kinds; and what it refuses.

One small layer, since each case is traced anew.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxen
from flaxen.models import attention_impls
from flaxen.models.model import Model
from tests.bridges.words import byte_tokenizer

VOCAB, DIM, ROWS = 24, 8, 32


def weights(make: Callable[[np.ndarray], Any] = jnp.asarray) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {
        "embed": (VOCAB, DIM),
        "places": (ROWS, DIM),
        "out": (DIM, DIM),
        "head": (DIM, VOCAB),
    }
    return {
        name: make(rng.standard_normal(shape).astype(np.float32)) for name, shape in shapes.items()
    }


def scores(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    return after(params, params["embed"][tokens] + params["places"][positions])


def after(params: Any, x: jax.Array) -> jax.Array:
    heads = x[..., None, :]
    x = x + flaxen.attend(heads, heads, heads)[..., 0, :] @ params["out"]
    return x @ params["head"]


def logits_by(model: Model, params: Any) -> np.ndarray:
    tokens = jnp.arange(8, dtype=jnp.int32)[None]
    cache = (None,) * len(model.cache_specs)
    hidden, _ = model.forward(
        params, tokens, tokens, attention_impls.causal(None, model.backend), cache
    )
    return np.asarray(model.unembed(params, hidden))


EXPECTED_TOKENS = jnp.arange(8, dtype=jnp.int32)[None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_of_numpy(dtype: Any) -> None:
    params = weights(lambda leaf: leaf.astype(dtype))
    model = flaxen.from_function(scores, params, max_position=ROWS)
    expected = scores(weights(), EXPECTED_TOKENS, EXPECTED_TOKENS)
    np.testing.assert_allclose(logits_by(model, params), expected, rtol=1e-4, atol=1e-4)
    definition = flaxen.Definition(model=model, params=params, tokenizer="none")
    assert definition.dtype == np.float32
    loaded = definition.load_params(jnp.dtype("float32"))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}


def test_the_check_does_not_hold_the_weights_as_constants() -> None:
    """Constants are copied into the compiled program, and folded by the compiler."""
    sizes = []

    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        sizes.append([isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)])
        return scores(params, tokens, positions)

    flaxen.from_function(function, weights(), max_position=ROWS)
    assert sizes
    assert all(all(are_traced) for are_traced in sizes)


@dataclasses.dataclass
class Output:
    logits: Any
    loss: Any = None


jax.tree_util.register_dataclass(Output, ["logits", "loss"], [])


@dataclasses.dataclass
class Unknown:
    """A container that JAX does not know as a pytree."""

    logits: Any
    name: str = "output"


Pair = namedtuple("Pair", ["loss", "logits"])

_TAKEN = {
    "tuple": lambda logits: (logits, jnp.ones(3)),
    "list": lambda logits: [logits],
    "tuple in a tuple": lambda logits: ((logits, None), 3.0),
    "dict": lambda logits: {"loss": jnp.ones(()), "logits": logits},
    "ordered": lambda logits: OrderedDict(logits=logits),
    "dataclass": lambda logits: Output(logits),
    "object": lambda logits: Unknown(logits),
    "beside a text": lambda logits: {"logits": logits, "name": "output"},
    "namedtuple": lambda logits: Pair(0.0, logits),
}


@pytest.mark.parametrize("kind", _TAKEN)
def test_logits_in_what_it_returns(kind: str) -> None:
    params = weights()
    model = flaxen.from_function(
        lambda *call: _TAKEN[kind](scores(*call)), params, max_position=ROWS
    )
    assert model.vocab_size == VOCAB
    expected = scores(params, EXPECTED_TOKENS, EXPECTED_TOKENS)
    np.testing.assert_allclose(logits_by(model, params), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda logits: {"scores": logits}, "returned a dict of scores: it must return logits"),
        (lambda logits: (jnp.ones(()), logits), r"an array of shape \(\): it must return"),
        (lambda logits: None, "returned a NoneType: it must return logits"),
        (lambda logits: "text", "returned a str: it must return logits"),
        (lambda logits: logits.argmax(-1), r"an array of shape \(1, 16\): it must return"),
        (lambda logits: logits.astype(jnp.int32), "logits are int32: they must be floating point"),
    ],
)
def test_what_are_no_logits_is_refused(returned: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.from_function(lambda *call: returned(scores(*call)), weights(), max_position=ROWS)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda params, tokens: tokens, "is called with .*, and too many positional arguments"),
        (lambda params, tokens, positions, mask: tokens, "a required argument: 'mask'"),
    ],
)
def test_other_arguments_are_refused(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.from_function(function, weights(), max_position=ROWS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({**weights(), "eps": 1e-5}, r"params\['eps'\] is a float, but parameters must be arrays"),
        ({**weights(), "config": {"name": "mini"}}, r"params\['config'\]\['name'\] is a str"),
    ],
)
def test_other_leaves_are_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flaxen.from_function(scores, params, max_position=ROWS)


@pytest.mark.parametrize("max_position", [0, -1, 2.5])
def test_a_number_of_positions_that_is_none(max_position: Any) -> None:
    with pytest.raises(ValueError, match="give the number of tokens that a sequence can have"):
        flaxen.from_function(scores, weights(), max_position=max_position)


def with_zeros(*names: str) -> dict[str, Any]:
    return {
        name: jnp.zeros_like(leaf) if name in names else leaf for name, leaf in weights().items()
    }


@pytest.mark.parametrize("names", [("head",), ("out",), ("head", "out")])
def test_new_parameters_that_are_zeros_are_taken(names: tuple[str, ...]) -> None:
    model = flaxen.from_function(scores, with_zeros(*names), max_position=ROWS)
    assert model.vocab_size == VOCAB


@pytest.mark.parametrize("names", [("head",), ("out",), ("head", "out")])
def test_zeros_do_not_hide_attention_that_is_not_causal(names: tuple[str, ...]) -> None:
    def sees_all(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        x = params["embed"][tokens]
        return after(params, x + x.mean(axis=1, keepdims=True) @ params["out"])

    with pytest.raises(ValueError, match="gives other logits in two pieces than as a whole"):
        flaxen.from_function(sees_all, with_zeros(*names), max_position=ROWS)


@pytest.mark.parametrize("mask", [-jnp.inf, -1e9])
def test_words_that_are_never_drawn(mask: float) -> None:
    """A mask over the vocabulary is no NaN, and does not make other differences look small."""

    def masked(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return scores(params, tokens, positions).at[..., -3:].set(mask)

    def counting(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return masked(params, tokens, jnp.arange(tokens.shape[1])[None])

    assert flaxen.from_function(masked, weights(), max_position=ROWS).vocab_size == VOCAB
    with pytest.raises(ValueError, match="gives other logits in two pieces than as a whole"):
        flaxen.from_function(counting, weights(), max_position=ROWS)


def test_weights_that_are_no_numbers_are_named() -> None:
    params = weights()
    params["out"] = params["out"].at[2, 3].set(jnp.nan)
    with pytest.raises(
        ValueError, match=r"give NaN or infinity at position 0: \['out'\] hold such"
    ):
        flaxen.from_function(scores, params, max_position=ROWS)


def test_a_division_by_zero_is_told_from_attention() -> None:
    def divides(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return scores(params, tokens, positions) / (positions - 5)[..., None]

    with pytest.raises(ValueError, match=r"infinity at position 5, and all of its parameters are"):
        flaxen.from_function(divides, weights(), max_position=ROWS)


def test_an_overflow_at_large_positions_is_found() -> None:
    def overflows(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        large = jnp.exp(positions.astype(jnp.float32))[..., None]
        return after(params, params["embed"][tokens]) + large

    assert flaxen.from_function(overflows, weights(), max_position=64).max_position == 64
    with pytest.raises(ValueError, match=r"at position 8\d, .*, at large positions alone"):
        flaxen.from_function(overflows, weights(), max_position=100)


def rows_of(table: jax.Array, positions: jax.Array) -> jax.Array:
    return table[positions]


_PLACES = {
    "indexed": rows_of,
    "taken": lambda table, positions: jnp.take(table, positions, axis=0),
    "one hot": lambda table, positions: jax.nn.one_hot(positions, ROWS) @ table,
    "inside of jit": jax.jit(rows_of),
    "sliced": lambda table, positions: table[: ROWS - 1][jnp.maximum(positions - 1, 0)],
    "mapped": jax.vmap(jax.vmap(lambda table, at: table[at], (None, 0)), (None, 0)),
    "computed": lambda table, positions: jnp.cos(jnp.outer(jnp.arange(ROWS), jnp.arange(DIM)))[
        positions
    ],
}


@pytest.mark.parametrize("kind", _PLACES)
def test_a_table_of_positions_that_is_too_short(kind: str) -> None:
    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return after(params, params["embed"][tokens] + _PLACES[kind](params["places"], positions))

    assert flaxen.from_function(function, weights(), max_position=ROWS).max_position == ROWS
    with pytest.raises(ValueError, match=rf"max_position is {ROWS + 1}, .* Give max_position=32 "):
        flaxen.from_function(function, weights(), max_position=ROWS + 1)


def test_the_table_is_named_also_in_a_scan() -> None:
    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        def layer(carry: Any, places: jax.Array) -> tuple[Any, None]:
            x, at = carry
            return (x + places[at], at), None

        (x, _), _ = jax.lax.scan(layer, (params["embed"][tokens], positions), params["stack"])
        return after(params, x)

    params = weights()
    params["stack"] = jnp.stack([params["places"]] * 2)
    flaxen.from_function(function, params, max_position=ROWS)
    with pytest.raises(
        ValueError, match=r"positions \['stack'\] has 32 rows: .*JAX takes the last"
    ):
        flaxen.from_function(function, params, max_position=40)


def test_rows_before_the_first_position_count() -> None:
    """OPT's table begins with two rows that no position has."""

    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return scores(params, tokens, positions + 2)

    flaxen.from_function(function, weights(), max_position=ROWS - 2)
    with pytest.raises(ValueError, match=r"has 32 rows.* Give max_position=30 or less"):
        flaxen.from_function(function, weights(), max_position=ROWS)


def test_positions_that_a_definition_limits_itself_are_its_own() -> None:
    def function(params: Any, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        return scores(params, tokens, jnp.minimum(positions, ROWS - 1))

    assert flaxen.from_function(function, weights(), max_position=100).max_position == 100


class Module(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(VOCAB, DIM, rngs=rngs)
        self.places = nnx.Embed(ROWS, DIM, rngs=rngs)
        self.head = nnx.Linear(DIM, VOCAB, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, tokens: jax.Array, positions: jax.Array) -> Unknown:
        x = self.embed(tokens) + self.places(positions)
        heads = x[..., None, :]
        return Unknown(self.head(x + flaxen.attend(heads, heads, heads)[..., 0, :]))


def test_a_module_with_a_new_head_and_its_table() -> None:
    model, params = flaxen.from_nnx(Module(), max_position=ROWS)
    assert not np.any(params["params"]["head"]["kernel"])  # only the check had others
    assert model.max_position == ROWS
    with pytest.raises(ValueError, match=r"\['params'\]\['places'\]\['embedding'\] has 32 rows"):
        flaxen.from_nnx(Module(), max_position=ROWS + 1)


@pytest.mark.parametrize(("vocab_size", "num_tokens"), [(24, 257), (255, 257), (256, 257)])
def test_a_tokenizer_with_more_tokens_than_the_model(vocab_size: int, num_tokens: int) -> None:
    """One token a byte; with 256 rows only the end-of-sequence token has no row."""
    params = weights()
    params["embed"] = jnp.ones((vocab_size, DIM))
    params["head"] = jnp.ones((DIM, vocab_size))
    model = flaxen.from_function(scores, params, max_position=ROWS)
    definition = flaxen.Definition(model=model, params=params, tokenizer=byte_tokenizer())
    message = f"tokenizer of 'model' has {num_tokens} tokens and the model {vocab_size}: prompts"
    with pytest.raises(ValueError, match=message):
        flaxen.LLM(definition)
