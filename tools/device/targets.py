"""The targets for an H100 or H200, beside what was found. Deliberately measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COPY = 0.70  # share of the copy's bandwidth, of decode at 64 streams
_MATMUL = 0.60  # share of the product's rate, of a prefill of 4,096
_TRANSFORMERS = 6.0  # times the tokens a second of transformers with torch.compile, at 64 streams


def judged(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each target with what was found; None where that was not measured, or cut."""
    found = {
        f"decode_64_share_of_copy_{shape}": (
            _COPY,
            _figure(parts, shape, "decode_64", "share_of_copy"),
        )
        for shape in ("1b", "8b")
    }
    found |= {
        f"prefill_4096_share_of_matmul_{shape}": (
            _MATMUL,
            _figure(parts, shape, "prefill_4096", "share_of_matmul"),
        )
        for shape in ("1b", "8b")
    }
    found |= {
        f"times_transformers_{shape}": (_TRANSFORMERS, _times(parts, shape))
        for shape in ("1b", "8b")
    }
    return {
        name: {
            "target": target,
            "found": value,
            "is_met": None if value is None else value >= target,
        }
        for name, (target, value) in found.items()
    }


def _times(parts: Mapping[str, Mapping[str, Any]], shape: str) -> float | None:
    ours = _figure(parts, shape, "decode_64", "tok_s")
    theirs = _figure(parts, f"{shape}-transformers", "decode_64", "tok_s")
    return None if ours is None or theirs is None else round(ours / theirs, 2)


def _figure(parts: Mapping[str, Mapping[str, Any]], part: str, name: str, key: str) -> float | None:
    value: float | None = parts.get(part, {}).get(name, {}).get(key)
    return value
