"""The limits of uploaded files. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass

from flaxen.job_routes.limits import check_counts


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """What the file routes allow.

    Raises:
      ValueError: a limit is out of its range.
    """

    max_file_bytes: int = 512 * 2**20  # the most bytes of one upload; OpenAI's limit
    max_total_bytes: int = 8 * 2**30  # the most bytes of all files together
    upload_idle_s: float = 60.0  # an upload is aborted after this many seconds without a byte

    def __post_init__(self) -> None:
        check_counts(self, "max_file_bytes", "max_total_bytes")
        if not self.upload_idle_s > 0:
            raise ValueError(f"upload_idle_s must be above 0 seconds, got {self.upload_idle_s}")
