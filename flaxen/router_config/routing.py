"""A recipe as the file has it: signals, projections and decisions that belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxen.router.checks import check_named
from flaxen.router.selection.requirements import CandidateRequirements
from flaxen.router_config.decision import Decision
from flaxen.router_config.fallback import Fallback
from flaxen.router_config.models import ModelCard
from flaxen.router_config.projections import ProjectionsShape


@dataclass(frozen=True, kw_only=True)
class DataPolicy:
    """Whether the recipe's requests may go to the replay log."""

    replay: bool = True


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """The file of a head's thresholds, and its hash."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ModelBinding:
    """Which head computes a signal."""

    deployment: str = ""
    contract: str = ""
    adapter: str = ""
    head: str = ""
    mapping_path: str = ""
    operating_point: OperatingPoint | None = None


@dataclass(frozen=True, kw_only=True)
class Signals:
    """The rules of a recipe's signals, by the name of their collection (signals/kinds.py)."""

    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RecipeRouting:
    """What a recipe decides by."""

    strategy: Literal["priority", "confidence"] = "priority"
    candidate_requirements: CandidateRequirements = field(default_factory=CandidateRequirements)
    data_policy: DataPolicy = DataPolicy()
    model_bindings: Mapping[str, ModelBinding] = field(default_factory=dict)
    signals: Signals = Signals()
    projections: ProjectionsShape = field(default_factory=ProjectionsShape)
    decisions: tuple[Decision, ...] = ()
    fallback: Fallback | None = None


@dataclass(frozen=True, kw_only=True)
class DefaultRouting(RecipeRouting):
    """The default recipe, with the cards of all models beside it."""

    modelCards: tuple[ModelCard, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RecipeShape:
    """A recipe."""

    name: str
    description: str = ""
    routing: RecipeRouting = RecipeRouting()

    def __post_init__(self) -> None:
        check_named("name", self.name)
        if self.name == "@global":
            raise ValueError("the name @global is reserved: give another")


@dataclass(frozen=True, kw_only=True)
class EntrypointShape:
    """Names of models that stand for a recipe."""

    model_names: tuple[str, ...]
    recipe: str

    def __post_init__(self) -> None:
        if not self.model_names:
            raise ValueError("model_names needs a name: without one nobody reaches the recipe")
        for name in self.model_names:
            check_named("model_names", name)
