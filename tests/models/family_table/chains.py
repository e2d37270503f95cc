"""What XLA compiles between a row's kernels, as chains of three operations.

The kernels are C++ that is compiled once. Equal bits of two programs depend on how XLA compiles
what lies between, such as whether it contracts a product and a sum into one instruction. A chain is
an operation with one that it takes a value from and one that takes its own, wherever both are in
the model and however large the arrays.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from flaxen.kernels.backend import Backend
from flaxen.training.loss import token_logprobs
from flaxen.weights.checkpoint import open_checkpoint
from tests.models.family_table.checkpoint import made
from tests.models.family_table.row import Row
from tests.models.family_table.trained import batch_of

Chain = tuple[str, str, str]
_Ends = frozenset[tuple[str, str]]  # the last two operations before a value
_KERNEL = "ffi_call "
_INPUT: _Ends = frozenset({("", "input")})
# These compute nothing, so that a chain goes through them.
_MOVES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "name",
    "reshape",
    "slice",
    "squeeze",
    "stop_gradient",
    "transpose",
}


def chains(row: Row) -> set[Chain]:
    """The chains of a row's forward over a packed batch whose middle one is not a kernel."""
    checkpoint = open_checkpoint(made(row).directory)
    model = checkpoint.model.on(Backend.CPU)
    params = checkpoint.load_params(jnp.dtype("float32"), backend=Backend.CPU)
    batch = batch_of([tuple(made(row).tokens.tolist())] * 2)
    closed = jax.make_jaxpr(lambda params: token_logprobs(model, params, batch))(params)
    found: set[Chain] = set()
    _follow(closed.jaxpr, [_INPUT] * len(closed.jaxpr.invars), found)
    return found


def _follow(jaxpr: Any, inputs: list[_Ends], found: set[Chain]) -> list[_Ends]:
    """Adds the chains of a program. Returns the ends before each of its results."""
    ends = dict(zip(jaxpr.invars, inputs, strict=True))

    def before(variable: Any) -> _Ends:
        literal = isinstance(variable, Literal)
        return frozenset({("", "literal")}) if literal else ends.get(variable, _INPUT)

    for equation in jaxpr.eqns:
        taken = [before(variable) for variable in equation.invars]
        parts = _parts(equation.params)
        if parts:
            results = [
                _follow(part, taken[len(taken) - len(part.invars) :], found) for part in parts
            ]
            given = [frozenset().union(*each) for each in zip(*results, strict=True)]
        elif equation.primitive.name in _MOVES:
            given = [taken[0]] * len(equation.outvars)
        else:
            name = _name(equation)
            pairs = frozenset().union(*taken)
            found |= {(*pair, name) for pair in pairs if _is_compiled(pair[1])}
            own = frozenset((last, name) for _, last in pairs) or frozenset({("", name)})
            given = [own] * len(equation.outvars)
        ends.update(zip(equation.outvars, given, strict=True))
    return [before(variable) for variable in jaxpr.outvars]


def _parts(params: dict[str, Any]) -> list[Any]:
    """The programs that an operation is made of: a call's, a loop's, or the branches'."""
    programs = [params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if name in params]
    return [getattr(each, "jaxpr", each) for each in (*programs[:1], *params.get("branches", ()))]


def _name(equation: Any) -> str:
    if equation.primitive.name == "ffi_call":
        return f"{_KERNEL}{equation.params['target_name']}"
    return str(equation.primitive.name)


def _is_compiled(name: str) -> bool:
    return name not in ("input", "literal") and not name.startswith(_KERNEL)
