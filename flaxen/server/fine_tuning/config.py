"""Where fine-tuning keeps its files and jobs, and its limits. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FineTuningConfig:
    """What the fine-tuning routes allow, and where they store it.

    Raises:
      ValueError: a limit is out of its range.
    """

    data_dir: Path  # of this server alone
    database_url: str | None = None  # SQLAlchemy's; None: SQLite in data_dir
    max_file_bytes: int = 512 * 2**20  # of one upload; OpenAI's limit
    max_total_bytes: int = 8 * 2**30  # of all files together
    max_active_jobs: int = 100  # that have not ended
    max_lora_rank: int = 64
    upload_idle_s: float = 60.0  # seconds without a byte after which an upload is given up

    def __post_init__(self) -> None:
        for name in ("max_file_bytes", "max_total_bytes", "max_active_jobs", "max_lora_rank"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        if not self.upload_idle_s > 0:
            raise ValueError(f"upload_idle_s must be above 0 seconds, got {self.upload_idle_s}")
