"""Answered requests, which knn compares new ones to: a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path


def read_answered(path: Path) -> list[tuple[str, str, float]]:
    """The lines of a file as the public reference's benchmark writes it, objects with query,
    model_name and performance: requests, the models that answered, and how well, from 0 to 1. Other
    keys are for readers, and empty lines are none.

    Raises:
      OSError: it can't be read.
      ValueError: a line is no such object, or there is none.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            query, model, score = str(row["query"]), row["model_name"], float(row["performance"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: it must be an object with query, model_name and "
                f"performance, as the reference's benchmark.py writes it ({error!r}); vectors of "
                "another encoder, as in knn_model.json, can't be compared here"
            ) from None
        if not query.strip() or not 0 <= score <= 1:
            raise ValueError(f"{path}, line {number}: give a query, and a performance from 0 to 1")
        found.append((query, str(model), score))
    if not found:
        raise ValueError(f"{path} has no line, so that no request is alike to another")
    return found
