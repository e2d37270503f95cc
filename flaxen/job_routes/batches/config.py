"""The limits of batches. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.job_routes.limits import check_counts


@dataclass(frozen=True, kw_only=True)
class BatchesConfig:
    """What the batch routes allow.

    Raises:
      ValueError: a limit is out of its range.
    """

    max_requests: int = 50_000  # the most requests of a batch; OpenAI's limit
    max_active: int = 100  # the most batches that have not ended
    max_concurrent: int = 16  # requests of a batch that the engine has at once
    lifetime_s: int = 24 * 3600  # from a batch's creation to its end, which is OpenAI's "24h"

    def __post_init__(self) -> None:
        check_counts(self, "max_requests", "max_active", "max_concurrent", "lifetime_s")
