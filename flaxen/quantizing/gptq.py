"""GPTQ: quantizes a weight column by column, and lets later columns make good the error of earlier
ones, as far as calibration inputs show.

https://arxiv.org/abs/2210.17323. Deliberately does not know models, nor where inputs come from.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flaxen.quantizing.schemes import Quantized, Scheme

_BLOCK = 64  # columns whose errors are added to the later columns at once
DAMPING = 0.01  # of the mean diagonal: what is added to it, so that the inverse exists


class Inputs(NamedTuple):
    """Statistics of the inputs of a weight, or of several weights that have the same inputs."""

    energies: np.ndarray  # float32 [in]: the sum of each input's squares
    order: np.ndarray  # [in]: the inputs from the largest energy to the smallest
    # float32 [in, in], in this order: the upper Cholesky factor of the inverse of the damped gram
    # matrix. Row i says how the inputs after i make good an error of i.
    factors: np.ndarray


def inputs_of(gram: np.ndarray) -> Inputs:
    """Inverts the gram matrix of a weight's inputs.

    Args:
      gram: float64 [in, in]: the sum of x xᵀ over the inputs x that the weight was multiplied with.

    Raises:
      ValueError: the inputs are not finite.
    """
    if not np.isfinite(gram).all():
        raise ValueError(
            "the inputs of a weight are not finite on the calibration texts: the model's weights "
            "are damaged, or the texts are not for it"
        )
    energies = np.diag(gram)
    order = np.argsort(-energies, kind="stable")
    damped = gram[np.ix_(order, order)]
    diagonal = np.diag(damped).copy()
    diagonal[diagonal == 0] = 1
    np.fill_diagonal(damped, diagonal + DAMPING * float(diagonal.mean()))
    # With rows and columns from the last to the first, G = L Lᵀ; then R = L⁻¹, from the last to the
    # first again, is upper, and Rᵀ R = G⁻¹.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    factors = np.linalg.inv(lower)[::-1, ::-1].astype(np.float32)
    return Inputs(energies.astype(np.float32), order, factors)


def quantize(weight: np.ndarray, inputs: Inputs, scheme: Scheme) -> Quantized:
    """Quantizes a weight so that its products with the calibration inputs change little.

    Columns of large inputs go first, since all later ones can make good their errors. The scales
    are chosen before, so that this order tears no group apart.

    Args:
      weight: float32 [out, in].
      inputs: of the weight.
      scheme: whose groups divide `in`.
    """
    num_inputs = weight.shape[1]
    order, factors = inputs.order, inputs.factors
    used = np.where(inputs.energies == 0, np.float32(0), weight)  # 0 for inputs that are always 0
    found = Quantized(numbers=np.empty_like(used), scales=scheme.scales(used, inputs.energies))
    # Transposed, a column lies in one piece.
    rest = np.ascontiguousarray(used.T[order])
    scales = np.ascontiguousarray(found.spread_scales.T[order])
    numbers = np.empty_like(rest)
    for start in range(0, num_inputs, _BLOCK):
        end = min(start + _BLOCK, num_inputs)
        errors = np.empty_like(rest[start:end])
        for column in range(start, end):
            numbers[column] = scheme.numbers(rest[column], scales[column])
            error = (rest[column] - numbers[column] * scales[column]) / factors[column, column]
            rest[column + 1 : end] -= np.outer(factors[column, column + 1 : end], error)
            errors[column - start] = error
        rest[end:] -= factors[start:end, end:].T @ errors
    found.numbers[:, order] = numbers.T
    return found
