"""The option group of fine-tuning.

Imports the web framework only when it is needed, so that --help is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flaxen.cli.groups import option
from flaxen.cli.sizes import parse_size, parse_size_option

if TYPE_CHECKING:
    from flaxen.job_routes.stores import StoresConfig

_option = partial(option, rich_help_panel="Fine-tuning")
_DEFAULT_SHARE = 0.2
_DEFAULT_FILE_BYTES = parse_size("512MiB")  # OpenAI's
_DEFAULT_TOTAL_BYTES = parse_size("8GiB")


@dataclass(frozen=True, kw_only=True)
class FineTuningOptions:
    """Whether clients may fine-tune the model, and the limits of that.

    Raises:
      ValueError: an option has no effect without --data-dir, or is out of range.
    """

    data_dir: Path | None = _option(
        None,
        metavar="DIR",
        file_okay=False,
        help="Serve /v1/files, /v1/fine_tuning/jobs and /v1/batches, and keep files, jobs, "
        "batches, models and responses there.",
        show_default="none is served, and responses are kept in memory",
    )
    database_url: str | None = _option(
        None,
        envvar="FLAXEN_DATABASE_URL",
        help="Database of jobs, files and responses, as postgresql+psycopg://USER:PASSWORD@HOST/"
        "NAME; each server needs one of its own.",
        show_default="SQLite in --data-dir",
    )
    fine_tuning_share: float = _option(
        _DEFAULT_SHARE,
        help="Share of the time that a job trains while requests run, above 0 to 1; while none "
        "runs, a job has all of the time.",
    )
    max_file_bytes: int = _option(
        _DEFAULT_FILE_BYTES,
        "--max-file-size",
        parser=parse_size_option,
        metavar="SIZE",
        help="Largest file of an upload.",
        show_default="512MiB",
    )
    max_total_bytes: int = _option(
        _DEFAULT_TOTAL_BYTES,
        "--max-files-size",
        parser=parse_size_option,
        metavar="SIZE",
        help="Largest size of all files together.",
        show_default="8GiB",
    )

    def __post_init__(self) -> None:
        share = self.fine_tuning_share
        if not 0 < share <= 1:
            raise ValueError(f"--fine-tuning-share must be above 0 and at most 1, got {share}")
        for name, is_given in (
            ("--database-url", self.database_url is not None),
            ("--fine-tuning-share", share != _DEFAULT_SHARE),
            ("--max-file-size", self.max_file_bytes != _DEFAULT_FILE_BYTES),
            ("--max-files-size", self.max_total_bytes != _DEFAULT_TOTAL_BYTES),
        ):
            if self.data_dir is None and is_given:
                raise ValueError(f"{name} needs --data-dir, where files and models are kept")

    def stores(self, max_rank: int) -> StoresConfig | None:
        """The configuration of the stores of files and jobs; None without --data-dir.

        Args:
          max_rank: the largest rank of an adapter.
        """
        if self.data_dir is None:
            return None
        from flaxen.job_routes.files.config import FilesConfig
        from flaxen.job_routes.fine_tuning.config import FineTuningConfig
        from flaxen.job_routes.stores import StoresConfig

        return StoresConfig(
            data_dir=self.data_dir,
            database_url=self.database_url,
            files=FilesConfig(
                max_file_bytes=self.max_file_bytes, max_total_bytes=self.max_total_bytes
            ),
            fine_tuning=FineTuningConfig(max_lora_rank=max_rank),
        )
