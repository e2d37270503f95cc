"""A definition that is traced once for each shape, and run by interpret.py.

Deliberately does not know: how a definition is examined, Models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.jaxpr.interpret import evaluate_eqns
from flaxen.bridges.jaxpr.leaves import dtypes_of, leaves_of, views_of
from flaxen.bridges.jaxpr.run import Run, plain, with_one_input
from flaxen.bridges.jaxpr.trace import Trace, abstract, make_trace
from flaxen.bridges.signature import check_logits, logits_of
from flaxen.kernels.backend import Backend
from flaxen.models import attention_impls
from flaxen.models.model import Attend, Cache, Params
from flaxen.models.param_spec import ParamSpec

# apply(params, tokens[B, T], positions[B, T], None) -> logits[B, T, V]; in training, with a PRNG
# key instead of None, -> (logits, {collection: its new value})
Apply = Callable[[Params, jax.Array, jax.Array, Any], Any]


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it selects a trace
class TracedFunction:
    """A pure function, and the tree of its parameters."""

    apply: Apply
    structure: Any  # the structure of the parameters' tree
    shapes: tuple[tuple[int, ...], ...]  # the shapes of its leaves


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it selects compiled code
class TracedDefinition:
    """A function, and what is known about each of its parameters."""

    function: TracedFunction
    specs: tuple[ParamSpec, ...]  # one for each leaf


def forward(
    definition: TracedDefinition,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Like Model.forward."""
    run = Run(token_shape=tokens.shape, attend=attend, cache=cache, backend=backend)
    hidden, _ = _run(definition, run, params, tokens, positions, ())
    return hidden, tuple(run.entries)


def train_forward(
    definition: TracedDefinition,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
    """Like Model.train_forward: also returns the new values of collections."""
    run = Run(token_shape=tokens.shape, attend=attend, cache=(), backend=backend)
    return _run(definition, run, params, tokens, positions, (key,))


def _run(
    definition: TracedDefinition,
    run: Run,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    key: tuple[jax.Array, ...],
) -> tuple[jax.Array, Any]:
    leaves = leaves_of(definition.function.structure, definition.specs, params)
    shape = tokens.shape if tokens.ndim == 2 else (1, *tokens.shape)
    dtypes = dtypes_of(leaves, [leaf.dtype for leaf in jax.tree.leaves(run.cache)])
    trace, updates = trace_at(definition.function, shape, dtypes, bool(key))
    run.is_token = (tokens >= 0).reshape(shape)
    run.leaves, run.together = leaves, _together(definition, run.backend, shape, dtypes, bool(key))
    # Padding tokens have the id -1, which a definition does not know.
    inputs = (jnp.maximum(tokens, 0).reshape(shape), positions.reshape(shape), *key)

    def compute(leaves: Sequence[Any], inputs: Sequence[jax.Array]) -> list[jax.Array]:
        env = trace.env([*views_of(definition.specs, leaves, dtypes), *inputs])
        found = evaluate_eqns(run, trace.forward, env, [trace.hidden, *trace.others])
        return [plain(run, each) for each in found]

    if all(entry is None for entry in run.cache):
        # If the backward pass kept values between products, XLA would fuse operations differently
        # and give other bits. So only the products are kept, and everything else is computed again.
        compute = jax.checkpoint(compute, policy=_is_product)
    hidden, *others = compute(leaves, inputs)
    return hidden.reshape(*tokens.shape, -1), jax.tree.unflatten(updates, others)


def _is_product(primitive: Any, *_: Any, **params: Any) -> bool:
    """A jax.checkpoint policy: whether an operation's output is kept for the backward pass."""
    # While it is differentiated, a kernel's call is a custom_jvp_call (kernels/derivatives.py).
    return str(primitive) in ("custom_jvp_call", "dot_general", "ffi_call")


def unembed(
    definition: TracedDefinition, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    """Like Model.unembed."""
    leaves = leaves_of(definition.function.structure, definition.specs, params)
    lead = hidden.shape[:-1]
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    dtypes = dtypes_of(leaves, [hidden.dtype])
    trace, _ = trace_at(definition.function, rows.shape[:2], dtypes, False)
    run = Run(
        token_shape=rows.shape[:2],
        attend=attention_impls.causal(None, backend),
        cache=(),
        backend=backend,
    )
    env = {**trace.env(views_of(definition.specs, leaves, dtypes)), trace.hidden: rows}
    (logits,) = evaluate_eqns(run, trace.unembed, env, trace.jaxpr.jaxpr.outvars[:1])
    found: jax.Array = plain(run, logits)
    return found.reshape(*lead, -1).astype(jnp.float32)


@functools.lru_cache(maxsize=256)
def trace_at(
    function: TracedFunction, shape: tuple[int, int], dtypes: tuple[Any, ...], trains: bool
) -> tuple[Trace, Any]:
    """Returns the trace at a shape, and the structure of the outputs other than the logits."""
    updates: list[Any] = []

    def flat(leaves: Sequence[Any], tokens: jax.Array, positions: jax.Array, *key: Any) -> Any:
        params = jax.tree.unflatten(function.structure, leaves)
        out = function.apply(params, tokens, positions, key[0] if key else None)
        returned, changed = out if trains else (out, {})
        logits = logits_of(returned)
        check_logits(logits, shape)
        found, structure = jax.tree.flatten(changed)
        updates.append(structure)
        return [logits, *found]

    leaves = [abstract(size, dtype) for size, dtype in zip(function.shapes, dtypes, strict=True)]
    tokens = abstract(shape, jnp.int32)
    key = (jax.eval_shape(lambda: jax.random.key(0)),) if trains else ()
    jaxpr = jax.make_jaxpr(flat)(leaves, tokens, tokens, *key)
    return make_trace(jaxpr, len(leaves)), updates[-1]


@functools.lru_cache(maxsize=256)
def _together(
    definition: TracedDefinition,
    backend: Backend,
    shape: tuple[int, int],
    dtypes: tuple[Any, ...],
    trains: bool,
) -> Any:
    """Finds which products of the forward have the same input, by running it on shapes only."""
    trace, _ = trace_at(definition.function, shape, dtypes, trains)
    run = Run(
        token_shape=shape, attend=attention_impls.causal(None, backend), cache=(), backend=backend
    )

    def forward(*args: Any) -> list[Any]:
        leaves = args[: len(dtypes)]
        env = trace.env([*views_of(definition.specs, leaves, dtypes), *args[len(dtypes) :]])
        return [plain(run, out) for out in evaluate_eqns(run, trace.forward, env, [trace.hidden])]

    jax.eval_shape(forward, *(abstract(v.shape, v.dtype) for v in trace.jaxpr.in_avals))
    found = with_one_input(run.products)
    run.products.clear()  # they refer to tracers
    return found
