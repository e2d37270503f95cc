"""The rules of signals that compare embeddings: texts, turns, and knowledge bases.

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
)


@dataclass(frozen=True, kw_only=True)
class PrototypeScoring:
    """How the similarities to several texts become one score: best_weight of the best, and the rest
    of the mean of the top_m best (0: of all). Where it is enabled, texts that are as similar as
    cluster_similarity_threshold are one, and max_prototypes are kept."""

    enabled: bool = True
    cluster_similarity_threshold: float = 0.9
    max_prototypes: int = 8
    best_weight: float = 0.75
    top_m: int = 2
    margin_threshold: float = 0.0

    def __post_init__(self) -> None:
        check_range(self.cluster_similarity_threshold, "cluster_similarity_threshold", -1, 1)
        check_range(self.max_prototypes, "max_prototypes", 0, 100_000)
        check_range(self.best_weight, "best_weight", 0, 1)
        check_range(self.top_m, "top_m", 0, 100_000)
        check_range(self.margin_threshold, "margin_threshold", 0, 2)


@dataclass(frozen=True, kw_only=True)
class EmbeddingRule:
    """Whether the text (or the first image) is similar to the candidates, less its similarity to
    the negative ones."""

    name: str
    threshold: float
    candidates: tuple[str, ...] = ()
    image_candidates: tuple[str, ...] = ()
    negative_candidates: tuple[str, ...] = ()
    negative_image_candidates: tuple[str, ...] = ()
    aggregation_method: str = "max"
    query_modality: str = "text"
    prototype_scoring: PrototypeScoring | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_texts([*self.candidates, *self.image_candidates], "candidates and image_candidates")
        negatives = [*self.negative_candidates, *self.negative_image_candidates]
        check_texts(negatives, "negative candidates", at_least=0)
        # A difference of two cosines.
        check_range(self.threshold, "threshold", *((-2, 2) if negatives else (-1, 1)))
        check_choice(self.aggregation_method, "aggregation_method", ("max", "mean", "any"))
        check_choice(self.query_modality, "query_modality", ("text", "image", "audio"))


@dataclass(frozen=True, kw_only=True)
class ReaskRule(NamedRule):
    """Whether the last `lookback_turns` texts of the user ask for the same as the current one."""

    threshold: float = 0.8
    lookback_turns: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.threshold, "threshold", 0, 1)
        check_range(self.lookback_turns, "lookback_turns", 1, 1_000)


@dataclass(frozen=True, kw_only=True)
class PreferenceRule(NamedRule):
    """Whether the text is nearest to this preference, of all, by its description and examples."""

    examples: tuple[str, ...] = ()
    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self.threshold, "threshold", 0, 1)
        if not self.description.strip() and not self.examples:
            raise ValueError("a preference is found by its description and examples: give some")
        check_texts(self.examples, "examples", at_least=0)


@dataclass(frozen=True, kw_only=True)
class KnowledgeBaseTarget:
    """A label of a knowledge base, or a group of its labels."""

    kind: str
    value: str

    def __post_init__(self) -> None:
        check_choice(self.kind, "target.kind", ("label", "group"))
        check_name(self.value, "target.value")


@dataclass(frozen=True, kw_only=True)
class KnowledgeBaseRule:
    """Whether the text belongs to a label or group: as the best of all, or by its threshold."""

    name: str
    kb: str
    target: KnowledgeBaseTarget
    match: str = "threshold"

    def __post_init__(self) -> None:
        check_name(self.name)
        check_name(self.kb, "kb")
        check_choice(self.match, "match", ("best", "threshold"))
