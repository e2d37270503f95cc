"""The calling convention of definitions: the meaning of their arguments and outputs.

Deliberately does not know any framework.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

POSITIONS = ("positions", "position_ids", "inputs_positions", "decoder_positions")
_TRAINS = ("train", "training", "is_training")


def keywords(call: Callable[..., Any], positions: Any, *, trains: bool) -> Mapping[str, Any]:
    """The keyword arguments of a call besides the tokens, by their usual names in Flax.

    Args:
      call: the callable; its first argument is the tokens.
      positions: the value for an argument `positions` or `position_ids`.
      trains: the value for an argument `train`; its negation is for `deterministic`.

    Raises:
      ValueError: the callable requires another argument.
    """
    given: dict[str, Any] = {}
    parameters = list(inspect.signature(call).parameters.values())
    for parameter in parameters[1:]:
        name = parameter.name
        if name in POSITIONS:
            given[name] = positions
        elif name in _TRAINS:
            given[name] = trains
        elif name == "deterministic":
            given[name] = not trains
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise ValueError(
                f"the definition requires an argument {name!r}, which flaxen does not pass: give "
                f"it a default. Passed are {', '.join((*POSITIONS, *_TRAINS, 'deterministic'))}"
            )
    return given


def check_arguments(function: Callable[..., Any], name: str) -> None:
    """Refuses a function that can't be called with parameters, tokens and positions.

    Args:
      function: a plain JAX function.
      name: its name, for messages.

    Raises:
      ValueError: the function takes fewer arguments, or requires more.
    """
    try:
        inspect.signature(function).bind("params", "tokens", "positions")
    except TypeError as error:
        raise ValueError(
            f"{name} is called with (params, tokens [B, T], positions [B, T]), and {error}: give "
            "it these three arguments, and a default to others"
        ) from None


def logits_of(found: Any) -> Any:
    """Extracts the logits from a definition's output, which may have one of the usual forms.

    Args:
      found: an array; an object with `logits`; a dict with "logits"; a tuple whose first element is
          one of these.
    """
    if isinstance(found, Mapping):
        return found.get("logits", found)
    if getattr(found, "logits", None) is not None:
        return found.logits
    if isinstance(found, tuple | list) and found:
        return logits_of(found[0])
    return found


def check_logits(found: Any, shape: tuple[int, int]) -> None:
    """Refuses an output that is not logits.

    Args:
      found: the result of `logits_of`.
      shape: the tokens' shape.

    Raises:
      ValueError: the output is not an array [B, T, V] of floating point numbers.
    """
    if not isinstance(found, jax.Array):
        held = f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ValueError(
            f"the definition returned a {type(found).__name__}{held}: it must return logits "
            '[B, T, V], alone, first in a tuple, as "logits" in a dict, or as an attribute `logits`'
        )
    if found.ndim != 3 or found.shape[:2] != shape:
        raise ValueError(
            f"for tokens {shape} the definition returned an array of shape {found.shape}: it must "
            "return the logits of each token, [B, T, V]"
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"the definition's logits are {found.dtype}: they must be floating point numbers"
        )
