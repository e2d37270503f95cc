"""The limits of fine-tuning jobs. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """What the fine-tuning routes allow.

    Raises:
      ValueError: a limit is out of its range.
    """

    max_active_jobs: int = 100  # the most jobs that have not ended
    max_lora_rank: int = 64

    def __post_init__(self) -> None:
        for name in ("max_active_jobs", "max_lora_rank"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
