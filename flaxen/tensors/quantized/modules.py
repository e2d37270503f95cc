"""The tensors of a quantized checkpoint by module: which belong to one weight, and their checks.

Deliberately does not know formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from flaxen.tensors.tensor import StoredTensor

Parts = Mapping[str, StoredTensor]  # a module's tensors by the last part of their names


def combined(
    tensors: Mapping[str, StoredTensor],
    make: Callable[[str, Parts], StoredTensor | None],
    used: Collection[str],
    ignored: Collection[str] = (),
) -> dict[str, StoredTensor]:
    """One tensor, `weight`, of each quantized weight's; others are unchanged.

    Args:
      tensors: the checkpoint's.
      make: makes the weight of a module's name and tensors; None if it is not quantized.
      used: the parts of which a quantized weight is made.
      ignored: parts that no weight needs.
    """
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    found: dict[str, StoredTensor] = {}
    for module, parts in modules.items():
        weight = make(module, parts)
        if weight is not None:
            found[named(module, "weight")] = weight
        for part, tensor in parts.items():
            if part not in ignored and (weight is None or part not in used):
                found[named(module, part)] = tensor
    return found


def named(module: str, part: str) -> str:
    """The name of a module's tensor."""
    return f"{module}.{part}" if module else part


def need(module: str, parts: Parts, name: str, shapes: Collection[tuple[int, ...]]) -> StoredTensor:
    """A tensor of a module that must be there.

    Args:
      module: its name.
      parts: its tensors.
      name: the tensor's.
      shapes: those that it may have.

    Raises:
      ValueError: it is missing, or has another shape.
    """
    full = named(module, name)
    if name not in parts:
        raise ValueError(
            f"tensor {full} is missing, without which the quantized weight beside it has no value: "
            "download the checkpoint again"
        )
    found = parts[name]
    if found.shape not in shapes:
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"tensor {full} has shape {list(found.shape)}, but the quantized weight beside it "
            f"needs {allowed}: the two do not belong together"
        )
    return found


def whole(tensor: StoredTensor) -> np.ndarray:
    """All values of a tensor; a scalar is an array without axes."""
    return tensor.read(0, tensor.shape[0] if tensor.shape else 1)


def input_order(module: str, groups_of: StoredTensor, group: int) -> np.ndarray | None:
    """The order in which inputs must lie so that groups are contiguous; None if they do already.

    Args:
      module: whose inputs they are.
      groups_of: int32 [in], the group of each input.
      group: the inputs of a group.

    Raises:
      ValueError: a group has another number of inputs.
    """
    of_input = whole(groups_of).astype(np.int64)
    regular = np.arange(of_input.size) // group
    if np.array_equal(of_input, regular):
        return None
    order = np.argsort(of_input, kind="stable").astype(np.int32)
    if not np.array_equal(of_input[order], regular):
        raise ValueError(
            f"tensor {groups_of.name} does not give each group {group} inputs, as group_size of "
            f"{module} says: the two do not belong together"
        )
    return order


def is_named(module: str, patterns: Iterable[str]) -> bool:
    """Whether a module is one of those that names or `re:` expressions mean."""
    return any(
        re.match(pattern[3:], module) is not None
        if pattern.startswith("re:")
        else module == pattern or module.endswith(f".{pattern}")
        for pattern in patterns
    )
