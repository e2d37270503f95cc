"""The names that files and jobs have in a data directory: ids of our own, never a client's text.

What has another name there is somebody else's, and is never touched.
"""

from __future__ import annotations

import re
import secrets
import string

_LENGTH = 24
_FILE = re.compile(rf"file-[A-Za-z0-9]{{{_LENGTH}}}")
_JOB = re.compile(rf"ftjob-[A-Za-z0-9]{{{_LENGTH}}}")
UNFINISHED = ".part"  # after the name of a file that is being written or removed


def new_file_name() -> str:
    """An id that no file had before."""
    return f"file-{_random()}"


def new_job_name() -> str:
    """An id that no job had before."""
    return f"ftjob-{_random()}"


def is_file_name(name: str) -> bool:
    """Whether it is a file's id."""
    return _FILE.fullmatch(name) is not None


def is_job_name(name: str) -> bool:
    """Whether it is a job's id."""
    return _JOB.fullmatch(name) is not None


def _random() -> str:
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(_LENGTH))
