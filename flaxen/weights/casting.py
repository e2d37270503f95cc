"""Casts values for a file, and refuses those that its number format can't hold.

Deliberately does not know formats of files.
"""

from __future__ import annotations

import numpy as np


def cast_rows(name: str, rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounds values to nearest.

    Args:
      name: the tensor's name, for the error.
      rows: floats.
      dtype: float32, float16 or bfloat16.

    Raises:
      ValueError: a finite value is too large for float16.
    """
    if dtype != np.float16 or rows.dtype == np.float16:
        return rows.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        found = rows.astype(dtype)
    if np.isinf(found).any() and np.isfinite(rows.astype(np.float32)).all():
        largest = float(np.abs(rows.astype(np.float32)).max())
        raise ValueError(
            f"tensor {name} has values up to {largest:g}, and float16 ends at 65504: use bfloat16 "
            "or float32"
        )
    return found
