"""The limits of fine-tuning jobs. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.job_routes.limits import check_counts


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """What the fine-tuning routes allow.

    Raises:
      ValueError: a limit is out of its range.
    """

    max_active_jobs: int = 100  # the most jobs that have not ended
    max_lora_rank: int = 64

    def __post_init__(self) -> None:
        check_counts(self, "max_active_jobs", "max_lora_rank")
