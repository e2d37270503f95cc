"""How a model is told to reason, or not to: a function of a request's body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]
# The field that asks for an effort: OpenAI's two APIs. Other requests have none, or no template.
_EFFORT = "reasoning_effort"
_THINKING = ("enabled", "adaptive")  # types of Anthropic's field that ask for reasoning


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What a decision says of a model's reasoning.

    Attributes:
      is_on: whether it reasons.
      variables: of the model's chat template.
      effort: how much; "": nothing is said of it. Where it is not among the variables it stands in
        the API's own field.
    """

    is_on: bool
    variables: Json = field(default_factory=dict)
    effort: str = ""

    @property
    def own_field(self) -> str:
        """The effort that stands in the API's own field."""
        return "" if self.effort in self.variables.values() else self.effort


def with_reasoning(body: Json, api: str, reasons: Reasons | None) -> Json:
    """A body whose model reasons as a decision says, whatever the client asked.

    Args:
      api: one without a chat template (completions, embeddings) leaves the body as it is.
      reasons: None changes nothing.
    """
    if reasons is None or api not in ("chat", "responses", "messages"):
        return body
    if api == "messages":
        return _as_messages(body, reasons)
    changed = {name: value for name, value in body.items() if name != _EFFORT}
    if api == "responses":
        given = {k: v for k, v in (body.get("reasoning") or {}).items() if k != "effort"}
        given |= {"effort": reasons.own_field} if reasons.own_field else {}
        changed = {k: v for k, v in changed.items() if k != "reasoning"}
        changed |= {"reasoning": given} if given else {}
    elif reasons.own_field:
        changed[_EFFORT] = reasons.own_field
    if reasons.variables:
        given = body.get("chat_template_kwargs") or {}
        changed["chat_template_kwargs"] = {**given, **reasons.variables}
    return changed


def _as_messages(body: Json, reasons: Reasons) -> Json:
    thinking, output = body.get("thinking"), dict(body.get("output_config") or {})
    asks = isinstance(thinking, Mapping) and thinking.get("type") in _THINKING
    if not (reasons.is_on and asks):  # a client that wants it may say how many tokens it takes
        thinking = {"type": "adaptive" if reasons.is_on else "disabled"}
    output.pop("effort", None)
    output |= {"effort": reasons.effort} if reasons.is_on and reasons.effort else {}
    changed = {k: v for k, v in body.items() if k != "output_config"}
    return {**changed, "thinking": thinking} | ({"output_config": output} if output else {})
