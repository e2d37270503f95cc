"""GPTQ: quantizes a weight column by column, and lets later columns make good the error of earlier
ones, as far as calibration inputs show.

https://arxiv.org/abs/2210.17323. Deliberately does not know models, nor where inputs come from.
"""

from __future__ import annotations

import numpy as np

from flaxen.quantizing.schemes import Quantized, Scheme

_BLOCK = 128  # columns whose errors are added to the later columns at once
DAMPING = 0.01  # of the mean diagonal: what is added to it, so that the inverse exists


def quantize(weight: np.ndarray, gram: np.ndarray, scheme: Scheme) -> Quantized:
    """Quantizes a weight so that its products with the calibration inputs change little.

    Args:
      weight: float32 [out, in].
      gram: float64 [in, in]: the sum of x xᵀ over the inputs x that the weight was multiplied with.
      scheme: whose groups divide `in`.

    Raises:
      ValueError: the inputs are not finite.
    """
    num_outputs, num_inputs = weight.shape
    factors = _inverse_factors(gram)
    group = scheme.group or num_inputs
    rest = weight.astype(np.float32)  # a copy: later columns change
    unused = np.diag(gram) == 0
    rest[:, unused] = 0  # inputs that are always zero
    numbers = np.empty_like(rest)
    scales = np.empty((num_outputs, num_inputs // group), np.float32)
    for start in range(0, num_inputs, _BLOCK):
        end = min(start + _BLOCK, num_inputs)
        block = np.ascontiguousarray(rest[:, start:end].T)  # a column lies in one piece
        errors = np.empty_like(block)
        for column in range(start, end):
            own = column - start
            if column % group == 0:
                # Groups divide a block, or have all inputs, of which none has changed yet.
                shared = rest if group == num_inputs else block[own : own + group].T
                scales[:, column // group] = scheme.scales(shared)[:, 0]
            scale = scales[:, column // group]
            numbers[:, column] = scheme.numbers(block[own], scale)
            errors[own] = (block[own] - numbers[:, column] * scale) / factors[column, column]
            block[own:] -= np.outer(factors[column, column:end], errors[own])
        rest[:, end:] -= errors.T @ factors[start:end, end:]
    return Quantized(numbers=numbers, scales=scales)


def _inverse_factors(gram: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of the inverse of the damped gram matrix, float32 [in, in]."""
    if not np.isfinite(gram).all():
        raise ValueError(
            "the inputs of a weight are not finite on the calibration texts: the model's weights "
            "are damaged, or the texts are not for it"
        )
    damped = gram.astype(np.float64)
    diagonal = np.diag(damped).copy()
    diagonal[diagonal == 0] = 1
    np.fill_diagonal(damped, diagonal + DAMPING * float(diagonal.mean()))
    inverse = np.linalg.inv(damped)
    factors: np.ndarray = np.linalg.cholesky((inverse + inverse.T) / 2).T
    return factors.astype(np.float32)
