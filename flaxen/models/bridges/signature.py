"""How a definition's own call is made: which of its arguments mean what.

Deliberately does not know what is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

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
