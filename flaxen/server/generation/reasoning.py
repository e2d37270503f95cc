"""What a `reasoning_effort` means for the chat template: how much the model may think.

Deliberately does not know: how reasoning is told from the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxen.server.errors import invalid
from flaxen.server.schema import shorten
from flaxen.text.mentions import mentions

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The switches of templates, which turn reasoning on and off.
_SWITCHES = ("enable_thinking", "thinking")


def effort_variables(
    effort: str | None, given: Mapping[str, Any], template: str | None, *, reasons: bool
) -> dict[str, Any]:
    """The variables of the template that a `reasoning_effort` sets.

    Args:
      effort: the field; None sets none.
      given: the body's chat_template_kwargs, which have priority.
      template: the template's source.
      reasons: whether the model's answers have reasoning.

    Raises:
      ApiError: 400, there is no such effort, or the template has no variable for it.
    """
    if effort is None:
        return {}
    if effort not in _EFFORTS:
        raise invalid(
            f"reasoning_effort must be one of {', '.join(_EFFORTS)}, got {shorten(effort)}",
            "reasoning_effort",
        )
    variables: dict[str, Any] = {}
    if mentions(template, "reasoning_effort"):
        variables["reasoning_effort"] = effort
    for name in _SWITCHES:
        if mentions(template, name):
            variables[name] = effort != "none"
    if not variables and (effort != "none" or reasons):
        raise invalid(
            f"reasoning_effort = {effort!r} is refused: the model's chat template has no variable "
            f"for it ({', '.join(('reasoning_effort', *_SWITCHES))}); leave it out",
            "reasoning_effort",
            "unsupported_parameter",
        )
    return {**variables, **given}
