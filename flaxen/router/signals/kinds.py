"""The one table of the kinds of signals: their names, their rules, and how they are found."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from flaxen.router.signals.authz import RoleBinding, find_roles
from flaxen.router.signals.complexity import ComplexityRule
from flaxen.router.signals.context import ContextRule, find_contexts
from flaxen.router.signals.conversation import ConversationRule, find_conversation
from flaxen.router.signals.embedded import (
    EmbeddingRule,
    KnowledgeBaseRule,
    PreferenceRule,
    ReaskRule,
)
from flaxen.router.signals.event import EventRule, find_events
from flaxen.router.signals.guards import HallucinationRule, JailbreakRule, PiiRule, SafetyRule
from flaxen.router.signals.heads import (
    ClassifierRule,
    DomainRule,
    FactCheckRule,
    UserFeedbackRule,
)
from flaxen.router.signals.keyword import KeywordRule, find_keywords
from flaxen.router.signals.language import LanguageRule, find_languages
from flaxen.router.signals.metadata import MetadataRule, find_metadata
from flaxen.router.signals.modality import (
    InputModalityRule,
    ModalityRule,
    find_input_modality,
    find_modalities,
)
from flaxen.router.signals.settings import Finder, SignalSettings, one_by_one
from flaxen.router.signals.structure import StructureRule, find_structures

Prepare = Callable[[Sequence[Any], SignalSettings], Finder]


class Cost(enum.Enum):
    """What a signal costs: FREE is a part of a millisecond, LEARNED a pass through a model."""

    FREE = "free"
    LEARNED = "learned"


@dataclass(frozen=True)
class SignalKind:
    """One kind of signals.

    Attributes:
      collection: the list of its rules in a configuration ("keywords").
      condition: its type in the conditions of decisions ("keyword"); "" if none may read it.
      rule: the class of its rules, whose fields are the keys of a configuration. A key that is a
        word of Python's has `_` behind it there (`in_`).
      prepare: makes the finder of all rules that are used, once for a configuration: compiling
        happens there. None for a LEARNED kind, which a model finds.
      named_by: the field of a rule that conditions name. Rules with one name are joined by OR.
      labels: the field whose texts stand behind the name in conditions (NAME:LABEL), or "".
      ignores_case: whether names that differ in case alone are the same.
    """

    collection: str
    condition: str
    rule: type[Any]
    prepare: Prepare | None = None
    _: KW_ONLY
    named_by: str = "name"
    labels: str = ""
    ignores_case: bool = False

    @property
    def cost(self) -> Cost:
        return Cost.LEARNED if self.prepare is None else Cost.FREE

    @property
    def shown_as(self) -> str:
        """Its key in previews and probes."""
        return _SHOWN_AS.get(self.collection, self.collection)


# Where previews and probes do not use the name of the collection.
_SHOWN_AS = {
    "classifiers": "classifier",
    "events": "event",
    "reasks": "reask",
    "role_bindings": "authz",
    "user_feedbacks": "user_feedback",
}

KINDS: tuple[SignalKind, ...] = (
    SignalKind("keywords", "keyword", KeywordRule, find_keywords),
    SignalKind("structure", "structure", StructureRule, find_structures),
    SignalKind("conversation", "conversation", ConversationRule, one_by_one(find_conversation)),
    SignalKind("context", "context", ContextRule, find_contexts),
    SignalKind("language", "language", LanguageRule, find_languages),
    SignalKind("metadata", "metadata", MetadataRule, one_by_one(find_metadata), ignores_case=True),
    SignalKind("role_bindings", "authz", RoleBinding, find_roles, named_by="role"),
    SignalKind("events", "event", EventRule, find_events),
    SignalKind(
        "input_modality",
        "input_modality",
        InputModalityRule,
        one_by_one(find_input_modality),
        ignores_case=True,
    ),
    SignalKind("modality", "modality", ModalityRule, find_modalities),
    SignalKind("embeddings", "embedding", EmbeddingRule),
    SignalKind("domains", "domain", DomainRule),
    SignalKind("fact_check", "fact_check", FactCheckRule),
    SignalKind("user_feedbacks", "user_feedback", UserFeedbackRule),
    SignalKind("reasks", "reask", ReaskRule),
    SignalKind("preferences", "preference", PreferenceRule),
    SignalKind("complexity", "complexity", ComplexityRule),
    SignalKind("jailbreak", "jailbreak", JailbreakRule),
    SignalKind("pii", "pii", PiiRule),
    SignalKind("kb", "kb", KnowledgeBaseRule),
    SignalKind("safety", "safety", SafetyRule, ignores_case=True),
    SignalKind("classifiers", "classifier", ClassifierRule, labels="labels", ignores_case=True),
    SignalKind("hallucination", "", HallucinationRule),
)
