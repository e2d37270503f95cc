"""What the body's fields say of how much the model may think: by its chat template, or by tokens.

Deliberately does not know: how reasoning is told from the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaxen.output_parsers.thinking_budget import ThinkingBudget
from flaxen.protocol import Grammar
from flaxen.server.errors import invalid, unsupported
from flaxen.server.generation.message_form import AnswerForm
from flaxen.server.schema import must_be
from flaxen.text.mentions import mentions
from flaxen.text.tokenizer import Tokenizer

MakeGrammar = Callable[[], Grammar]

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The switches of templates, which turn reasoning on and off.
SWITCHES = ("enable_thinking", "thinking")


def with_budget(
    make_grammar: MakeGrammar | None, budget: int | None, form: AnswerForm, tokenizer: Tokenizer
) -> MakeGrammar | None:
    """The grammars of answers whose reasoning ends in time.

    Args:
      make_grammar: those that the answers have besides; None for none.
      budget: the body's `thinking_token_budget`; None or -1 bounds nothing.
      form: of the answers.
      tokenizer: the model's.

    Raises:
      ApiError: 400, the budget is below -1, or the answers have no reasoning.
    """
    if budget is None or budget == -1:
        return make_grammar
    field = "thinking_token_budget"
    if budget < -1:
        raise invalid(f"{field} must be at least 0, or -1 for none, got {budget}", field)
    thoughts = form.thoughts
    if thoughts is None:
        raise unsupported(
            f"{field} is refused: nothing is known of how this model marks its reasoning "
            "(--reasoning-parser)",
            field,
        )
    return lambda: ThinkingBudget(
        None if make_grammar is None else make_grammar(),
        budget=budget,
        begin="" if form.is_open else thoughts.begin,
        end=thoughts.end,
        end_ids=tokenizer.encode(thoughts.end, add_special_tokens=False),
        token_bytes=tokenizer.token_bytes,
    )


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
        raise must_be("reasoning_effort", f"one of {', '.join(_EFFORTS)}", effort)
    variables: dict[str, Any] = {}
    if mentions(template, "reasoning_effort"):
        variables["reasoning_effort"] = effort
    for name in SWITCHES:
        if mentions(template, name):
            variables[name] = effort != "none"
    if not variables and (effort != "none" or reasons):
        raise unsupported(
            f"reasoning_effort = {effort!r} is refused: the model's chat template has no variable "
            f"for it ({', '.join(('reasoning_effort', *SWITCHES))}); leave it out",
            "reasoning_effort",
        )
    return {**variables, **given}
