"""How a definition's own call is made: which of its arguments and of its outputs mean what.

Deliberately does not know what is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

_POSITIONS = ("positions", "position_ids", "inputs_positions", "decoder_positions")
_TRAINS = ("train", "training", "is_training")


def keywords(call: Callable[..., Any], positions: Any, *, trains: bool) -> Mapping[str, Any]:
    """The keyword arguments beside the tokens, by the names that are usual in Flax.

    Args:
      call: takes the tokens first.
      positions: for `positions` or `position_ids`, where there is one.
      trains: for `train`, or turned around for `deterministic`, where there is one.

    Raises:
      ValueError: it wants something else too.
    """
    given: dict[str, Any] = {}
    parameters = list(inspect.signature(call).parameters.values())
    for parameter in parameters[1:]:
        name = parameter.name
        if name in _POSITIONS:
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
                f"the definition wants an argument {name!r}, which nobody can give it here: give "
                f"it a default. Known are {', '.join((*_POSITIONS, *_TRAINS, 'deterministic'))}"
            )
    return given


def check_arguments(function: Callable[..., Any], name: str) -> None:
    """Refuses a function that can't be called with parameters, tokens and positions.

    Args:
      function: of plain JAX.
      name: for messages.

    Raises:
      ValueError: it takes fewer arguments, or needs more.
    """
    try:
        inspect.signature(function).bind("params", "tokens", "positions")
    except TypeError as error:
        raise ValueError(
            f"{name} is called with (params, tokens [B, T], positions [B, T]), and {error}: give "
            "it these three arguments, and a default to others"
        ) from None


def logits_of(found: Any) -> Any:
    """The logits in what a definition returned: itself, or where the field is used to have them.

    Args:
      found: an array; an object with `logits`; a dict with "logits"; a tuple, whose first is one of
        these.
    """
    if isinstance(found, Mapping):
        return found.get("logits", found)
    if getattr(found, "logits", None) is not None:
        return found.logits
    if isinstance(found, tuple | list) and found:
        return logits_of(found[0])
    return found


def check_logits(found: Any, shape: tuple[int, int]) -> None:
    """Refuses what are no logits.

    Args:
      found: as `logits_of` has it.
      shape: of the tokens.

    Raises:
      ValueError: it is no array [B, T, V] of floating point numbers.
    """
    if not isinstance(found, jax.Array):
        held = f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ValueError(
            f"the definition returned a {type(found).__name__}{held}: it must return logits "
            '[B, T, V], alone, first in a tuple, as "logits" in a dict, or as an attribute `logits`'
        )
    if found.ndim != 3 or found.shape[:2] != shape:
        raise ValueError(
            f"of tokens {shape} the definition made an array of shape {found.shape}: it must give "
            "the scores of all words for each, [B, T, V]"
        )
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(
            f"the definition's scores are {found.dtype}: they must be floating point numbers"
        )
