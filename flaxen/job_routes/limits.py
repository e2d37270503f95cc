"""The check that the limits of files, jobs and batches share. Deliberately knows none of them."""

from __future__ import annotations


def check_counts(config: object, *names: str) -> None:
    """Refuses limits that are no numbers of at least 1.

    Args:
      config: has the limits as attributes.
      names: the limits.

    Raises:
      ValueError: one is out of its range.
    """
    for name in names:
        count = getattr(config, name)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
