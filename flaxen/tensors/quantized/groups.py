"""Groups of inputs that share a scale: their sizes, and values by group as values by input.

Deliberately does not know formats.
"""

from __future__ import annotations

import math

import numpy as np

from flaxen.kernels.linear.packed import INPUT_MULTIPLE


def kept_group(num_inputs: int, group: int) -> int | None:
    """The size of the groups that a kept weight has; None if the kernels have no such groups.

    A last group that is not whole is divided like the others into smaller ones, of equal size.

    Args:
      num_inputs: of the weight.
      group: inputs that share a scale in the file.
    """
    if group >= num_inputs:
        return num_inputs
    size = math.gcd(group, num_inputs)
    return None if size % INPUT_MULTIPLE else size


def finer(per_group: np.ndarray, times: int, num_groups: int) -> np.ndarray:
    """Values [rows, groups] of groups, for as many groups that are `times` smaller."""
    if times == 1:
        return per_group
    return np.repeat(per_group, times, axis=1)[:, :num_groups]


def by_input(per_group: np.ndarray, group: int, num_inputs: int) -> np.ndarray:
    """Values [rows, groups] of groups, for each input."""
    if per_group.shape[1] == 1:
        return per_group
    return np.repeat(per_group, group, axis=1)[:, :num_inputs]


def spread(values: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    """Values [rows, in] of inputs that are stored in an order, in the layer's own order."""
    if order is None:
        return values
    found = np.empty_like(values)
    found[:, order] = values
    return found
