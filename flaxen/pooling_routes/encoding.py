"""Pooled numbers in bytes or base64, in vLLM's number formats and byte orders.

Deliberately does not know routes.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import ml_dtypes
import numpy as np
from starlette.responses import Response

NumberFormat = Literal["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"]
ByteOrder = Literal["native", "little", "big"]  # native: the server's

_DTYPES: Mapping[NumberFormat, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def to_bytes(values: np.ndarray, number_format: NumberFormat, order: ByteOrder) -> bytes:
    """The numbers as bytes, one after the other."""
    numbers = values.astype(_DTYPES[number_format])
    if order in ("native", sys.byteorder):
        return numbers.tobytes()
    return numbers.view(f"u{numbers.itemsize}").byteswap().tobytes()


def to_base64(
    values: np.ndarray, number_format: NumberFormat = "float32", order: ByteOrder = "little"
) -> str:
    """The same as text; by default little-endian float32, as OpenAI's clients read them."""
    return base64.b64encode(to_bytes(values, number_format, order)).decode("ascii")


def bytes_answer(
    envelope: dict[str, Any],
    vectors: Sequence[np.ndarray],
    number_format: NumberFormat,
    order: ByteOrder,
    *,
    with_metadata: bool,
) -> Response:
    """An answer whose body is all vectors' bytes; the header `metadata` says where each one is.

    Args:
      envelope: the fields of an answer in JSON besides the vectors.
      vectors: those of the inputs, in their order.
      number_format: of each number.
      order: of the bytes of each number.
      with_metadata: whether there is that header.
    """
    parts = [to_bytes(each, number_format, order) for each in vectors]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    data = [
        {
            "index": i,
            "embed_dtype": number_format,
            "endianness": order,
            "start": end - len(part),
            "end": end,
            "shape": list(vector.shape),
        }
        for i, (part, end, vector) in enumerate(zip(parts, ends, vectors, strict=True))
    ]
    headers = {"metadata": json.dumps({**envelope, "data": data})} if with_metadata else {}
    return Response(b"".join(parts), media_type="application/octet-stream", headers=headers)
