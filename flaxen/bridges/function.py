"""Turns a pure function of tokens into a Model: all bridges go through this file.

The function is traced once for each shape and run by interpret.py. Its parameters keep their own
tree structure. Deliberately does not know Flax or PyTorch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxen.bridges.check import check_served
from flaxen.bridges.jaxpr.interpret import evaluate_eqns
from flaxen.bridges.jaxpr.leaves import check_params, dtypes_of, leaves_of, paths_of, views_of
from flaxen.bridges.jaxpr.positions import check_positions
from flaxen.bridges.jaxpr.roles import find_roles
from flaxen.bridges.jaxpr.run import Run, Use, plain, with_one_input
from flaxen.bridges.jaxpr.trace import Trace, abstract, make_trace
from flaxen.bridges.signature import check_arguments, check_logits, logits_of
from flaxen.kernels.backend import Backend
from flaxen.kernels.choice import AUTO, choose_backend
from flaxen.models import attention_impls
from flaxen.models.model import PACKED_ROLES, Attend, Cache, Matrix, Model, Params, ParamSpec

# apply(params, tokens[B, T], positions[B, T], None) -> logits[B, T, V]; in training, with a PRNG
# key instead of None, -> (logits, {collection: its new value})
Apply = Callable[[Params, jax.Array, jax.Array, Any], Any]

_PROBE = (1, 16)  # the shape of the trace that examines a definition


class NoAttentionError(ValueError):
    """A definition contains no attention that can be replaced."""


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it selects a trace
class _Function:
    apply: Apply
    structure: Any  # the structure of the parameters' tree
    shapes: tuple[tuple[int, ...], ...]  # the shapes of its leaves


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity: it selects compiled code
class _Definition:
    function: _Function
    specs: tuple[ParamSpec, ...]  # one for each leaf


def from_function(
    function: Callable[[Params, jax.Array, jax.Array], jax.Array],
    params: Params,
    *,
    max_position: int,
    backend: str = AUTO,
) -> Model:
    """Turns a JAX function (params, tokens [B, T], positions [B, T]) -> logits [B, T, V] into a
    Model.

    The function calls `flaxen.attend` for attention; everything else is computed for each token
    alone. The logits may also be the first element of a tuple, "logits" in a dict, or an attribute
    `logits`; other outputs are ignored.

    Args:
      function: pure.
      params: a tree of JAX or NumPy arrays: dicts, tuples, or a class that is a pytree, such as
          Equinox's.
      max_position: the most tokens of a sequence.
      backend: what the Model is made for and checked on, as EngineArgs.backend.

    Raises:
      ValueError: the function can't be served: it has no attention, its attention is not over the
          model's tokens, or it gives other logits in pieces than as a whole.
    """
    name = getattr(function, "__name__", "the function")
    check_arguments(function, name)
    model = from_apply(
        lambda params, tokens, positions, key: function(params, tokens, positions),
        params,
        max_position=max_position,
        backend=backend,
    )
    whole = jax.jit(lambda *call: logits_of(function(*call)))
    check_served(model, params, whole, name=name)
    return model


def from_apply(
    apply: Apply,
    params: Params,
    *,
    max_position: int,
    axes: Any = None,
    trained: str | None = None,
    trains_apart: bool = False,
    backend: str = AUTO,
) -> Model:
    """Turns a pure function into a Model.

    Args:
      apply: the function; it calls `flaxen.attend` for attention.
      params: a tree of arrays, or of shapes with dtypes; nothing is computed with them.
      max_position: the most tokens of a sequence.
      axes: a tree like `params` whose leaves are tuples of the logical names of the axes; or None.
      trained: the collection of `params` that is trained; None trains all of them.
      trains_apart: whether training differs from inference; `apply` then gets a key in training.
      backend: what the Model is made for, by a name that `choose_backend` takes.

    Raises:
      NoAttentionError: the function contains no attention.
      ValueError: its attention can't be served, or it does not return logits [B, T, V].
    """
    chosen = choose_backend(backend)
    check_params(params, max_position)
    leaves, tree = jax.tree.flatten(params)
    structure: Any = tree  # JAX does not annotate its class
    names = [()] * len(leaves) if axes is None else structure.flatten_up_to(axes)
    function = _Function(
        apply=apply, structure=structure, shapes=tuple(tuple(leaf.shape) for leaf in leaves)
    )
    dtypes = tuple(jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in leaves)
    trace, _ = _trace(function, _PROBE, dtypes, False)
    roles = find_roles(trace.jaxpr, len(leaves))
    specs = tuple(
        ParamSpec(shape=shape, axes=tuple(name) or (None,) * len(shape), role=role)
        for shape, name, role in zip(function.shapes, names, roles, strict=True)
    )
    run, width = _probe(_Definition(function=function, specs=specs), chosen, dtypes)
    if not run.specs:
        raise NoAttentionError(
            "the definition contains no attention that can be replaced: give its modules an "
            "attention_fn, as Flax's "
            "MultiHeadAttention has, or let them call flaxen.attend(q, k, v)"
        )
    check_positions(trace.jaxpr, paths_of(params), len(leaves) + 1, max_position)
    packable = _matrices(run.uses, len(leaves))
    definition = _Definition(
        function=function,
        specs=tuple(
            dataclasses.replace(spec, matrix=matrix if spec.role in PACKED_ROLES else None)
            for spec, matrix in zip(specs, packable, strict=True)
        ),
    )
    return Model(
        forward_on=jax.jit(
            functools.partial(_forward, definition), static_argnums=0, donate_argnames=("cache",)
        ),
        unembed_on=jax.jit(functools.partial(_unembed, definition), static_argnums=0),
        param_specs=jax.tree.unflatten(structure, definition.specs),
        cache_specs=tuple(run.specs),
        vocab_size=width,
        max_position=max_position,
        trained=trained,
        train_forward_on=functools.partial(_train_forward, definition) if trains_apart else None,
        backend=chosen,
    )


def _forward(
    definition: _Definition,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    run = Run(token_shape=tokens.shape, attend=attend, cache=cache, backend=backend)
    hidden, _ = _run(definition, run, params, tokens, positions, ())
    return hidden, tuple(run.entries)


def _train_forward(
    definition: _Definition,
    backend: Backend,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    attend: Attend,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, Any]]:
    run = Run(token_shape=tokens.shape, attend=attend, cache=(), backend=backend)
    return _run(definition, run, params, tokens, positions, (key,))


def _run(
    definition: _Definition,
    run: Run,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    key: tuple[jax.Array, ...],
) -> tuple[jax.Array, Any]:
    leaves = leaves_of(definition.function.structure, definition.specs, params)
    shape = tokens.shape if tokens.ndim == 2 else (1, *tokens.shape)
    dtypes = dtypes_of(leaves, [leaf.dtype for leaf in jax.tree.leaves(run.cache)])
    trace, updates = _trace(definition.function, shape, dtypes, bool(key))
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


def _unembed(
    definition: _Definition, backend: Backend, params: Params, hidden: jax.Array
) -> jax.Array:
    leaves = leaves_of(definition.function.structure, definition.specs, params)
    lead = hidden.shape[:-1]
    rows = hidden.reshape(1, -1, hidden.shape[-1])
    dtypes = dtypes_of(leaves, [hidden.dtype])
    trace, _ = _trace(definition.function, rows.shape[:2], dtypes, False)
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
def _trace(
    function: _Function, shape: tuple[int, int], dtypes: tuple[Any, ...], trains: bool
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
    definition: _Definition,
    backend: Backend,
    shape: tuple[int, int],
    dtypes: tuple[Any, ...],
    trains: bool,
) -> Any:
    """Finds which products of the forward have the same input, by running it on shapes only."""
    trace, _ = _trace(definition.function, shape, dtypes, trains)
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


def _probe(definition: _Definition, backend: Backend, dtypes: tuple[Any, ...]) -> tuple[Run, int]:
    """Runs a definition abstractly. Returns the Run, which says what it contains, and V."""
    run = Run(
        token_shape=_PROBE, attend=attention_impls.causal(None, backend), cache=(), backend=backend
    )
    trace, _ = _trace(definition.function, _PROBE, dtypes, False)

    def whole(leaves: Sequence[Any], tokens: jax.Array) -> Any:
        env = trace.env([*views_of(definition.specs, leaves, dtypes), tokens, tokens])
        eqns = trace.jaxpr.jaxpr.eqns
        outs = evaluate_eqns(run, eqns, env, trace.jaxpr.jaxpr.outvars)
        return [plain(run, out) for out in outs]

    leaves = [
        abstract(spec.shape, dtype) for spec, dtype in zip(definition.specs, dtypes, strict=True)
    ]
    logits = jax.eval_shape(whole, leaves, abstract(_PROBE, jnp.int32))[0]
    return run, logits.shape[-1]


def _matrices(uses: Sequence[Use], num_leaves: int) -> list[Matrix | None]:
    """For each parameter how it is packed, if it is only ever multiplied in one way; else None. A
    tied embedding may also be looked up.
    """
    found: list[Matrix | None] = []
    for leaf in range(num_leaves):
        own = {use for use in uses if use.leaf == leaf}
        ways = {(use.inputs, use.outputs, use.layers) for use in own}
        is_multiplied = any(use.kind == "product" for use in own)
        if len(ways) != 1 or not is_multiplied or any(use.kind == "other" for use in own):
            found.append(None)
            continue
        ((inputs, outputs, layers),) = ways
        fits = inputs and outputs
        found.append(Matrix(inputs=inputs, outputs=outputs, layers=layers) if fits else None)
    return found
