"""Which family a config.json names. Deliberately does not know what its other fields mean."""

from __future__ import annotations

from typing import Any


def architecture(fields: dict[str, Any]) -> str:
    """The name by which a config.json calls its family.

    Raises:
      ValueError: it has none, or several.
    """
    names = fields.get("architectures") or [fields.get("model_type")]
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(
            f"architectures must name one architecture, got {fields.get('architectures')!r}, and "
            f"model_type is {fields.get('model_type')!r}"
        )
    return names[0]
