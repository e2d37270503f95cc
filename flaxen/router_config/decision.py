"""A decision as the file has it: its rules, its models, and what it does to requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import Limited, check_named, limited
from flaxen.router.selection.algorithms import Algorithm
from flaxen.router.signals.predicate import Predicate
from flaxen.router_config.plugins import Plugin

Mode = Literal["", "apply", "observe", "bypass"]
CandidateSet = Literal["", "decision", "tier", "global"]
_MAX_ANNOTATIONS = 32


@dataclass(frozen=True, kw_only=True)
class RuleNode:
    """A node of a decision's rules: a condition (type and name), or an operator over nodes."""

    type: str = ""
    name: str = ""
    label: str = ""
    predicate: Predicate | None = None
    on_error: Literal["", "match", "no_match"] = ""
    operator: str = ""
    conditions: tuple[RuleNode, ...] = ()
    on_unknown: Literal["", "no_match", "match", "fail_request"] = ""

    def __post_init__(self) -> None:
        if self.type and (self.operator or self.conditions):
            raise ValueError("a node is a condition (type, name) or an operator, not both")
        if self.operator.upper() not in ("", "AND", "OR", "NOT"):
            raise ValueError(f"operator must be AND, OR or NOT, got {self.operator!r}")
        if self.conditions and not self.operator:
            raise ValueError("conditions need an operator: AND, OR or NOT")
        if self.operator.upper() == "NOT" and len(self.conditions) != 1:
            raise ValueError(f"NOT takes one condition, got {len(self.conditions)}")
        if self.type and not self.name:
            raise ValueError("a condition needs the name of a signal")
        if not self.type and (self.name or self.label or self.predicate or self.on_error):
            raise ValueError("a condition needs its type, such as keyword or domain")


@dataclass(frozen=True, kw_only=True)
class ModelRef(Limited):
    """A model that a decision may choose, how much it gets of what is divided, how it reasons."""

    model: str
    lora_name: str = ""
    weight: float = limited(1.0, 0)
    use_reasoning: bool = False
    reasoning_description: str = ""
    reasoning_mode: Literal["", "enabled", "disabled", "adaptive"] = ""
    reasoning_effort: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named("model", self.model)
        if self.reasoning_effort and self.reasoning_mode == "disabled":
            raise ValueError("reasoning_effort contradicts reasoning_mode disabled: remove one")


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Whether what is learned from answers may change the choice, and among which models."""

    mode: Mode = ""
    candidate_set: CandidateSet = ""


@dataclass(frozen=True, kw_only=True)
class Protection(Limited):
    """Whether a session keeps its model, and how hard it is to change."""

    mode: Mode = ""
    stability_weight: float | None = limited(None, 0)
    switch_margin: float | None = limited(None, 0)


@dataclass(frozen=True, kw_only=True)
class Adaptations:
    """A decision's own settings of `global.router.learning`."""

    mode: Mode = ""
    adaptation: Adaptation = Adaptation()
    protection: Protection = Protection()

    def __post_init__(self) -> None:
        for name in ("adaptation", "protection"):
            mode = getattr(self, name).mode
            if self.mode == "bypass" and mode not in ("", "bypass"):
                raise ValueError(f"mode bypass contradicts {name}.mode {mode}")
            if self.mode == "observe" and mode == "apply":
                raise ValueError(f"mode observe contradicts {name}.mode apply")


@dataclass(frozen=True, kw_only=True)
class Retention(Limited):
    """What becomes of the answer: not kept (drop), for some turns, and by which model next."""

    drop: bool = False
    ttl_turns: int | None = limited(None, 1)
    keep_current_model: bool = False
    prefer_prefix_retention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop and self.ttl_turns is not None:
            raise ValueError("drop keeps nothing, and ttl_turns something: remove one")


@dataclass(frozen=True, kw_only=True)
class Emit:
    """What a decision tells the parts behind it."""

    kind: Literal["retention"]
    retention: Retention = Retention()


@dataclass(frozen=True, kw_only=True)
class Decision(Limited):
    """A decision: rules with a priority, and what follows where they match."""

    name: str
    description: str = ""
    priority: int = 0
    tier: int = limited(0, 0)
    rules: RuleNode | None = None
    modelRefs: tuple[ModelRef, ...] = ()
    algorithm: Algorithm | None = None
    adaptations: Adaptations = Adaptations()
    plugins: tuple[Plugin, ...] = ()
    emits: tuple[Emit, ...] = ()
    annotations: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_named("name", self.name)
        if len(self.annotations) > _MAX_ANNOTATIONS:
            raise ValueError(f"annotations may have {_MAX_ANNOTATIONS} keys")
