"""From pooled vectors to embeddings, probabilities and scores.

Deliberately does not know engines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flaxen.pooling.params import PoolingParams
from flaxen.protocol import FieldError, PoolingInfo

_TINY = 1e-12  # the least length by which a vector is divided


def embedding(vector: Sequence[float], pooling: PoolingInfo, params: PoolingParams) -> np.ndarray:
    """An embedding [D] or, cut, [dimensions]; float32.

    Raises:
      FieldError: it has fewer numbers than were asked for.
    """
    found = np.asarray(vector, np.float32)
    if params.dimensions is not None:
        if params.dimensions > len(found):
            raise FieldError(
                "dimensions",
                f"dimensions is {params.dimensions}, and the model's embeddings have {len(found)}: "
                "lower it",
            )
        found = found[: params.dimensions]
    return _unit(found) if params.wants_unit(pooling) else found


def probabilities(
    logits: Sequence[float], pooling: PoolingInfo, params: PoolingParams
) -> np.ndarray:
    """The score of each label [L], float32: probabilities, unless the model or the caller leaves
    the logits as they are.
    """
    found = np.asarray(logits, np.float32)
    if params.use_activation is False or pooling.activation == "none":
        return found
    if pooling.activation == "sigmoid":
        # The exponential is that of the larger side, so that nothing overflows.
        small = np.exp(-np.abs(found))
        return np.where(found >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)
    powers = np.exp(found - found.max())
    return np.asarray(powers / powers.sum(), np.float32)


def similarity(first: Sequence[float], second: Sequence[float]) -> float:
    """The cosine of the angle between two pooled vectors."""
    one, other = (_unit(np.asarray(each, np.float32)) for each in (first, second))
    return float(np.dot(one, other))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(np.float32(np.linalg.norm(vector)), np.float32(_TINY))
