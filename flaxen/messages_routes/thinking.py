"""What the fields `thinking` and `output_config.effort` mean for a chat.

Deliberately does not know: how thoughts are told from the answer.
"""

from __future__ import annotations

from typing import Any

from flaxen.server.context import Context
from flaxen.server.errors import ApiError, unsupported
from flaxen.server.generation.reasoning import SWITCHES
from flaxen.server.schema import must_be, shorten, whole
from flaxen.text.mentions import mentions

_FIELDS = {
    "enabled": ("type", "budget_tokens", "display"),
    "adaptive": ("type", "display"),
    "disabled": ("type",),
}
_DISPLAYS = (None, "summarized", "omitted")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_MIN_BUDGET = 1024  # Anthropic's


def thinking_fields(
    thinking: Any, effort: Any, max_tokens: int | None, context: Context
) -> dict[str, Any]:
    """The chat's `chat_template_kwargs`, `thinking_token_budget` and `include_reasoning`.

    Args:
      thinking: the body's field. Without it the model does not think where its template has a
          switch for that, and otherwise thinks unseen (decision 0326).
      effort: the body's `output_config.effort`; it changes nothing where the template has no
          variable for it.
      max_tokens: the body's; None where tokens are counted.
      context: has the model's template and formats.

    Raises:
      ApiError: 400, a value is not one that there is, or the model can't do it.
    """
    template = context.tokenizer.chat_template
    kind, budget = _kind(thinking), None
    switches = [name for name in SWITCHES if mentions(template, name)]
    if kind == "enabled":
        budget = _read_budget(thinking.get("budget_tokens"), max_tokens)
        if not context.formats.reasons:
            raise _refused("thinking.type = 'enabled'", "thinking", "the model has no reasoning")
    if kind == "disabled" and context.formats.reasons and not switches:
        raise _refused(
            "thinking.type = 'disabled'", "thinking", "the model's reasoning can't be turned off"
        )
    thinks = kind in ("enabled", "adaptive")
    variables: dict[str, Any] = dict.fromkeys(switches, thinks)
    return {
        "chat_template_kwargs": variables | _effort_variables(effort, template),
        "thinking_token_budget": budget,
        "include_reasoning": thinks and thinking.get("display") != "omitted",
    }


def _kind(thinking: Any) -> str | None:
    """The type of thinking; None where the field is not given.

    Raises:
      ApiError: 400, it has another form.
    """
    if thinking is None:
        return None
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if (
        not isinstance(kind, str)
        or kind not in _FIELDS
        or not set(thinking) <= set(_FIELDS[kind])
        or thinking.get("display") not in _DISPLAYS
    ):
        raise must_be(
            "thinking",
            "{'type': 'enabled', 'budget_tokens': …}, {'type': 'adaptive'}, each with "
            "display ('summarized' or 'omitted') if wanted, or {'type': 'disabled'}",
            thinking,
        )
    return kind


def _read_budget(budget: Any, max_tokens: int | None) -> int:
    """The most tokens of reasoning; one too high to leave any for the answer is refused."""
    budget = whole(budget)
    is_number = isinstance(budget, int) and not isinstance(budget, bool)
    if not is_number or budget < _MIN_BUDGET or (max_tokens is not None and budget >= max_tokens):
        most = "" if max_tokens is None else f" and below max_tokens ({shorten(max_tokens)})"
        raise must_be(
            "thinking.budget_tokens", f"a whole number of at least {_MIN_BUDGET}{most}", budget
        )
    count: int = budget
    return count


def _effort_variables(effort: Any, template: str | None) -> dict[str, Any]:
    if effort is None:
        return {}
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise must_be("output_config.effort", f"one of {', '.join(_EFFORTS)}", effort)
    # Agents send one to every model. It is no limit but advice, which other models do without.
    return {"reasoning_effort": effort} if mentions(template, "reasoning_effort") else {}


def _refused(what: str, param: str, why: str) -> ApiError:
    return unsupported(f"{what} is refused: {why}; leave it out", param)
