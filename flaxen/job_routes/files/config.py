"""The limits of uploaded files. Deliberately does not know flags."""

from __future__ import annotations

from dataclasses import dataclass


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
        for name in ("max_file_bytes", "max_total_bytes"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        if not self.upload_idle_s > 0:
            raise ValueError(f"upload_idle_s must be above 0 seconds, got {self.upload_idle_s}")
