"""Makes the drafters that only read tokens."""

from __future__ import annotations

from flaxen.engine.speculative.config import SpeculativeConfig
from flaxen.engine.speculative.drafter import Drafter
from flaxen.engine.speculative.ngram import Ngrams
from flaxen.engine.speculative.prediction import Predicted
from flaxen.engine.speculative.suffix import Suffixes


def reading_drafter(config: SpeculativeConfig | None) -> Drafter | None:
    """The drafter of a configuration; None without one, or if it is a model."""
    if config is None or config.method == "draft_model":
        return None
    if config.method == "suffix":
        return Predicted(Suffixes(config))
    return Predicted(Ngrams(config.prompt_lookup_min, config.prompt_lookup_max))
