"""Reasoning: how the models of a family are asked to reason, and what a decision asks of one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from flaxen.router.reasoning import Reasons
from flaxen.router_config.decision import ModelRef

_EFFORTS = ("reasoning_effort", "top_level_reasoning_effort")
Mode = Literal["enabled", "disabled", "adaptive"]


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """How a model is asked to reason: by a family's name, or spelled out.

    Attributes:
      type: where `parameter` stands: a switch of the chat template (chat_template_kwargs), a
        variable of it with an effort (reasoning_effort) or a mode (reasoning_mode), or the API's
        own field (top_level_reasoning_effort).
      activation_parameter: a switch of the template beside the effort.
      levels, default: the efforts, and the one that is meant where nobody says one.
      modes: what it can; disabled: the effort that means none.
    """

    family: str = ""
    type: Literal[
        "", "chat_template_kwargs", "reasoning_effort", "reasoning_mode",
        "top_level_reasoning_effort",
    ] = ""  # fmt: skip
    parameter: str = ""
    activation_parameter: str = ""
    levels: tuple[str, ...] = ()
    default: str = ""
    modes: tuple[Mode, ...] = ()
    default_mode: Literal["", "enabled", "disabled", "adaptive"] = ""
    disabled: str = ""

    def __post_init__(self) -> None:
        if bool(self.family) == bool(self.type):
            raise ValueError("give family, or type and what belongs to it")
        if self.family and self.family not in FAMILIES:
            raise ValueError(
                f"the family {self.family!r} is not known here: spell it out with type, parameter "
                f"and levels, or name one of {', '.join(FAMILIES)}"
            )
        if self.type and not self.parameter:
            raise ValueError(f"type {self.type} needs the parameter that it sets")
        if self.type in _EFFORTS and not self.levels:
            raise ValueError(f"type {self.type} needs levels, such as [low, high]")
        if self.default and self.levels and self.default not in self.levels:
            raise ValueError(f"the default {self.default!r} is not among levels: add it there")
        if self.type == "top_level_reasoning_effort" and self.parameter != "reasoning_effort":
            raise ValueError(f"type {self.type} needs the parameter reasoning_effort")
        if self.activation_parameter and self.type != "reasoning_effort":
            raise ValueError("activation_parameter is for the type reasoning_effort")

    @property
    def spelled(self) -> Reasoning:
        """The same without a family's name."""
        return FAMILIES[self.family] if self.family else self

    @property
    def can_stop(self) -> bool:
        """Whether it can be told not to reason."""
        if self.type in _EFFORTS:
            return bool(self.activation_parameter or self.disabled)
        return not self.modes or "disabled" in self.modes


_effort = partial(Reasoning, type="reasoning_effort", parameter="reasoning_effort")
_THINKS, _SWITCH = "thinking", "enable_thinking"
# These families are from the public reference's catalog: OpenAI's models, and those whose servers
# have chat templates.
FAMILIES: dict[str, Reasoning] = {
    name: Reasoning(type="chat_template_kwargs", parameter=parameter)
    for parameter, names in {
        _SWITCH: ("qwen3", "glm", "hunyuan", "mimo", "gemma4"),
        _THINKS: ("deepseek-v3.1", "deepseek-v3.2", "kimi-k2"),
    }.items()
    for name in names
} | {
    "gpt-oss": _effort(levels=("low", "medium", "high"), default="medium"),
    "gpt": _effort(
        type="top_level_reasoning_effort",
        levels=("minimal", "low", "medium", "high", "xhigh", "max"),
        default="medium",
        disabled="none",
    ),
    "qwen3.8": _effort(
        levels=("low", "medium", "xhigh"), default="xhigh", activation_parameter=_SWITCH
    ),
    "glm-5.2": _effort(levels=("high", "max"), default="max", activation_parameter=_SWITCH),
    "hunyuan-hy3": _effort(levels=("low", "high"), default="high", disabled="no_think"),
    "mistral-none-high": _effort(levels=("high",), disabled="none"),
}


def problem_of(ref: ModelRef, reasoning: Reasoning | None, *, says_off: bool) -> str:
    """Says what is wrong with how a decision wants a model to reason; "" if nothing is.

    Args:
      reasoning: the model's; None if the file says nothing of it.
      says_off: whether use_reasoning false is written.
    """
    if reasoning is None:
        asks = ref.use_reasoning or ref.reasoning_mode
        told = f"nothing says how {ref.model} is asked to reason: give it reasoning"
        return f"{told} (a family) in providers.models" if asks else ""
    own, mode, effort = reasoning.spelled, ref.reasoning_mode, ref.reasoning_effort
    if mode and ref.use_reasoning != (mode != "disabled"):
        return f"use_reasoning contradicts reasoning_mode {mode}: change one of them"
    modes = own.modes or ("enabled", "disabled")
    if mode and mode not in modes:
        return f"{ref.model} has no reasoning_mode {mode}: it has {', '.join(modes)}"
    if says_off and not own.can_stop:
        return f"{ref.model} always reasons: remove use_reasoning, or write true"
    if effort and not ref.use_reasoning:
        return "reasoning_effort needs use_reasoning: true"
    if effort and effort not in own.levels:
        levels = ", ".join(own.levels) or "none"
        return f"{ref.model} has no reasoning_effort {effort}: it has {levels}"
    return ""


def reasons_of(ref: ModelRef, reasoning: Reasoning | None, default_effort: str) -> Reasons | None:
    """What a decision says of a model's reasoning; None if it says nothing.

    Args:
      default_effort: of models that have it, where the decision gives none.
    """
    if reasoning is None or not (ref.use_reasoning or reasoning.spelled.can_stop):
        return None
    own, is_on = reasoning.spelled, ref.use_reasoning
    if own.type == "chat_template_kwargs":
        return Reasons(is_on=is_on, variables={own.parameter: is_on})
    if own.type == "reasoning_mode":
        mode = ref.reasoning_mode or ("enabled" if is_on else "disabled")
        return Reasons(is_on=is_on, variables={own.parameter: mode})
    efforts = (ref.reasoning_effort, default_effort, own.default, own.levels[0])
    effort = next(each for each in efforts if each in own.levels) if is_on else own.disabled
    variables: dict[str, str | bool] = {}
    if own.activation_parameter:
        variables[own.activation_parameter] = is_on
    if effort and own.type == "reasoning_effort":
        variables[own.parameter] = effort
    return Reasons(is_on=is_on, variables=variables, effort=effort)
