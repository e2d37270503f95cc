"""The names of files and jobs in a data directory: our own ids, never a client's text.

A file with any other name belongs to somebody else and is never touched.
"""

from __future__ import annotations

import re
import secrets
import string

_LENGTH = 24
_FILE = re.compile(rf"file-[A-Za-z0-9]{{{_LENGTH}}}")
_JOB = re.compile(rf"ftjob-[A-Za-z0-9]{{{_LENGTH}}}")
UNFINISHED = ".part"  # the suffix of a file that is being written or removed


def new_file_name() -> str:
    """A new, random file id."""
    return f"file-{_random()}"


def new_job_name() -> str:
    """A new, random job id."""
    return f"ftjob-{_random()}"


def new_batch_name() -> str:
    """A new, random batch id. Nothing on disk has it."""
    return f"batch_{_random()}"


def is_file_name(name: str) -> bool:
    """Whether a name is a file id."""
    return _FILE.fullmatch(name) is not None


def is_job_name(name: str) -> bool:
    """Whether a name is a job id."""
    return _JOB.fullmatch(name) is not None


def _random() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(_LENGTH))
