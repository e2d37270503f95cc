"""How learned signals score: `global.model_catalog` of the file. Their models are the router's
own, so that names and paths of others are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import Limited, limited
from flaxen.router.signals.embedded import PrototypeScoring


@dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(Limited):
    """How embeddings are scored, where no rule says it.

    Attributes:
      enable_soft_matching: whether, where no rule matches, those above min_score_threshold do.
      top_k: how many rules stay matched, the best ones; 0 is all.
    """

    enable_soft_matching: bool = True
    top_k: int = limited(1, 0)
    min_score_threshold: float = limited(0.5, -1, 1)
    prototype_scoring: PrototypeScoring | None = None


@dataclass(frozen=True, kw_only=True)
class SemanticSettings:
    """The embeddings of texts."""

    embedding_config: EmbeddingSettings = EmbeddingSettings()


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """The embeddings that signals compare."""

    semantic: SemanticSettings = SemanticSettings()


@dataclass(frozen=True, kw_only=True)
class PromptGuard(Limited):
    """The head of jailbreak signals."""

    enabled: bool = True
    threshold: float = limited(0.7, 0, 1)
    positive_labels: tuple[str, ...] = ("jailbreak",)


@dataclass(frozen=True, kw_only=True)
class DomainHead(Limited):
    """The head of domain signals."""

    threshold: float = limited(0.5, 0, 1)
    fallback_category: str = ""


@dataclass(frozen=True, kw_only=True)
class PiiHead(Limited):
    """The head of pii signals."""

    threshold: float = limited(0.9, 0, 1)


@dataclass(frozen=True, kw_only=True)
class PreferenceHead:
    """Preferences are found by similarity to their examples; no other model is asked."""

    use_contrastive: bool = True
    prototype_scoring: PrototypeScoring | None = None

    def __post_init__(self) -> None:
        if not self.use_contrastive:
            raise ValueError("preferences are found by similarity: write use_contrastive: true")


@dataclass(frozen=True, kw_only=True)
class ClassifierHeads:
    """The heads of topics, personal data and preferences."""

    domain: DomainHead = DomainHead()
    pii: PiiHead = PiiHead()
    preference: PreferenceHead = PreferenceHead()


@dataclass(frozen=True, kw_only=True)
class ComplexityHead:
    """How complexity is scored, where no rule says it."""

    prototype_scoring: PrototypeScoring | None = None


@dataclass(frozen=True, kw_only=True)
class FactCheckHead(Limited):
    """The head of fact_check signals."""

    threshold: float = limited(0.6, 0, 1)


@dataclass(frozen=True, kw_only=True)
class HallucinationHeads:
    """Of the checks of answers only the question whether facts are asked for."""

    fact_check: FactCheckHead = FactCheckHead()


@dataclass(frozen=True, kw_only=True)
class FeedbackHead(Limited):
    """The head of user_feedback signals."""

    enabled: bool = True
    threshold: float = limited(0.7, 0, 1)


@dataclass(frozen=True, kw_only=True)
class ModalityHead(Limited):
    """How the wanted modality of an answer is found."""

    enabled: bool = False
    method: Literal["classifier", "keyword", "hybrid"] = "classifier"
    keywords: tuple[str, ...] = ()
    both_keywords: tuple[str, ...] = ()
    confidence_threshold: float = limited(0.6, 0, 1)
    lower_threshold_ratio: float = limited(0.7, 0, 1)


@dataclass(frozen=True, kw_only=True)
class Modules:
    """The heads, by signal."""

    prompt_guard: PromptGuard = PromptGuard()
    classifier: ClassifierHeads = ClassifierHeads()
    complexity: ComplexityHead = ComplexityHead()
    hallucination_mitigation: HallucinationHeads = HallucinationHeads()
    feedback_detector: FeedbackHead = FeedbackHead()
    modality_detector: ModalityHead = ModalityHead()


@dataclass(frozen=True, kw_only=True)
class ModelCatalog:
    """Everything that learned signals share.

    Attributes:
      kbs: the knowledge bases of kb signals, as the file has them; only their names are read here.
    """

    embeddings: Embeddings = Embeddings()
    modules: Modules = Modules()
    kbs: tuple[Mapping[str, Any], ...] = field(default=())
