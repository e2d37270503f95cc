"""The rules of signals that read a classifier: topics, facts, feedback, and one's own labels.

Their functions need a model, so they are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.router.signals.checks import (
    NamedRule,
    check_choice,
    check_name,
    check_range,
    check_texts,
    check_unique,
)

FACT_CHECKS = ("needs_fact_check", "no_fact_check_needed")
FEEDBACKS = ("need_clarification", "satisfied", "want_different", "wrong_answer")
CLASSIFIERS = ("local", "llm", "sequence_classifier")


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """How good a model is at a topic."""

    model: str
    score: float
    use_reasoning: bool = False

    def __post_init__(self) -> None:
        check_name(self.model, "model")
        check_range(self.score, "score", 0, 1e9)


@dataclass(frozen=True, kw_only=True)
class DomainRule(NamedRule):
    """Whether the text is about one of the rule's categories, or about what its name says."""

    mmlu_categories: tuple[str, ...] = ()
    model_scores: tuple[ModelScore, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_texts(self.mmlu_categories, "mmlu_categories", at_least=0)


@dataclass(frozen=True, kw_only=True)
class FactCheckRule(NamedRule):
    """Whether the answer would state facts that can be checked, as the rule's name says."""

    def __post_init__(self) -> None:
        check_choice(self.name, "the fact check", FACT_CHECKS)


@dataclass(frozen=True, kw_only=True)
class UserFeedbackRule(NamedRule):
    """Whether the text tells what the user thinks of the answer before it, as the name says."""

    def __post_init__(self) -> None:
        check_choice(self.name, "the feedback", FEEDBACKS)


@dataclass(frozen=True, kw_only=True)
class ClassifierRule(NamedRule):
    """A classifier with labels of one's own, which conditions name.

    Attributes:
      type: local (a head on the router's encoder), llm (a model that is asked, with
        `instructions`), or sequence_classifier (a model with such a head).

    Raises:
      ValueError: a field does not belong to the type, or labels are missing or ambiguous.
    """

    type: str
    labels: tuple[str, ...]
    model: str = ""
    model_path: str = ""
    instructions: str = ""
    disable_rationale: bool = False
    use_cpu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.type, "type", CLASSIFIERS)
        check_texts(self.labels, "labels", at_least=1 if self.type == "llm" else 2)
        check_unique(self.labels, "labels")
        for text in (self.name, *self.labels):
            if ":" in text or text != text.strip():
                raise ValueError(
                    f"{text!r} may have neither a colon nor white space around it: conditions "
                    "write RULE:LABEL"
                )
        if self.type == "llm" and not self.instructions.strip():
            raise ValueError("a classifier of type llm needs instructions")
        foreign = {
            "local": ("model", "instructions", "disable_rationale"),
            "llm": ("model_path", "use_cpu"),
            "sequence_classifier": (
                "model_path",
                "use_cpu",
                "instructions",
                "disable_rationale",
            ),
        }
        for field in foreign[self.type]:
            if getattr(self, field):
                raise ValueError(f"a classifier of type {self.type} has no {field}: remove it")
