"""Applies a family's tensor rules, from tensors to parameters and back.

Both directions work on tensors that are read in pieces (`views.py`), so that a rule costs no copy.
Deliberately does not know families, or the contents of files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, assert_never

import numpy as np

from flaxen.families.rules import (
    Alternate,
    ByGroup,
    ByHead,
    Concat,
    DropAxis,
    Interleave,
    NegatedExp,
    PlusOne,
    Regroup,
    Rules,
    Size,
    Split,
    Stack,
    Step,
    TensorRule,
)
from flaxen.models.param_spec import ParamSpec
from flaxen.tensors.alternating import alternated, strided, strided_rows
from flaxen.tensors.head_views import by_head, flat_heads
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.value_views import (
    flat_rows,
    in_rows,
    log_of_negated,
    mapped,
    shifted,
    with_axis,
    without_axis,
)
from flaxen.tensors.views import (
    Range,
    joined,
    narrowed,
    reordered,
    rows_of,
    stacked,
    unstacked,
)

Sizes = Mapping[str, int]  # the sizes of a layer, which rules use by name
SizesOf = Callable[[int | None], Sizes]  # those of the layer with a number; None is outside layers


class Place(NamedTuple):
    """A rule applied to one layer, or to the parameters outside layers."""

    rule: TensorRule
    layer: int | None
    specs: tuple[ParamSpec, ...]  # one for each of the rule's parameters
    shapes: Mapping[str, tuple[int, ...]]  # the tensors' shapes, by their names in the file
    sizes: Sizes


def read_tensors(
    steps: Sequence[Step], tensors: Sequence[StoredTensor], sizes: Sizes
) -> list[StoredTensor]:
    """Applies steps to a file's tensors: returns one tensor for each parameter."""
    found = list(tensors)
    for step in steps:
        match step:
            case Split():
                (whole,) = found
                found = _split(whole, step.shares, step.axis, step.groups, sizes)
            case Concat():
                found = [_side_by_side(found, step.axis, 1, sizes)]
            case Stack():
                found = [stacked(found)]
            case Interleave():
                found = [reordered(each, _halves(step, sizes)) for each in found]
            case ByHead():
                count = _number(step.num_heads, sizes)
                found = [
                    by_head(each, count, is_turned=is_turned)
                    for each, is_turned in zip(found, step.turned, strict=True)
                ]
            case Alternate():
                (whole,) = found
                is_last = step.axis == len(whole.shape) - 1
                take = strided if is_last else strided_rows
                found = [take(whole, first) for first in (0, 1)]
            case DropAxis():
                found = [without_axis(each) for each in found]
            case PlusOne():
                found = [shifted(each, -1) for each in found]
            case NegatedExp():
                found = [mapped(each, log_of_negated) for each in found]
            case ByGroup():
                found = [flat_rows(each) for each in found]
            case Regroup():
                found = [_regrouped(found, step, sizes)]
            case _:
                assert_never(step)
    return found


def write_tensors(
    steps: Sequence[Step], params: Sequence[StoredTensor], sizes: Sizes
) -> list[StoredTensor]:
    """The inverse: returns one tensor for each tensor of the file."""
    found = list(params)
    for step in reversed(steps):
        match step:
            case Split():
                found = [_side_by_side(found, step.axis, step.groups, sizes)]
            case Concat():
                (whole,) = found
                found = _split(whole, step.shares, step.axis, 1, sizes)
            case Stack():
                (whole,) = found
                found = unstacked(whole)
            case Interleave():
                found = [reordered(each, np.argsort(_halves(step, sizes))) for each in found]
            case ByHead():
                found = [
                    flat_heads(each, is_turned=is_turned)
                    for each, is_turned in zip(found, step.turned, strict=True)
                ]
            case Alternate():
                found = [alternated(found, step.axis)]
            case DropAxis():
                found = [with_axis(each) for each in found]
            case PlusOne():
                found = [shifted(each, 1) for each in found]
            case NegatedExp():
                found = [mapped(each, lambda values: -np.exp(values)) for each in found]
            case ByGroup():
                found = [in_rows(each, _number(step.num_groups, sizes)) for each in found]
            case Regroup():
                (whole,) = found
                found = _by_part(whole, step, sizes)
            case _:
                assert_never(step)
    return found


def place_rules(rules: Rules, specs: Any, sizes: SizesOf) -> list[Place]:
    """Selects the rules that a model's parameters need, with the file's tensors that they use.

    Args:
      rules: a family's rules for one format.
      specs: the decoder's tree of ParamSpec.
      sizes: those of its configuration, DecoderConfig.sizes.

    Raises:
      ValueError: a parameter has no rule or two, or the model has only some of a rule's parameters.
    """
    places = []
    for layer, own in scopes(specs):
        used = [rule for rule in rules if any(param in own for param in rule.params)]
        covered = [param for rule in used for param in rule.params]
        if sorted(covered) != sorted(own):
            differing = sorted({*covered} ^ {*own}) or sorted(
                param for param in own if covered.count(param) > 1
            )
            raise ValueError(
                f"the family's rules and the model differ in the parameter {differing[0]}: each "
                "parameter needs one rule, whose parameters the model has all"
            )
        places += [_place(rule, layer, own, sizes(layer)) for rule in used]
    return places


def scopes(tree: Any) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    """The parts of a decoder's tree with named parameters: outside the layers (None), and each
    layer.
    """
    yield None, {name: each for name, each in tree.items() if name != "layers"}
    yield from enumerate(tree["layers"])


def _place(
    rule: TensorRule, layer: int | None, specs: Mapping[str, ParamSpec], sizes: Sizes
) -> Place:
    own = tuple(specs[param] for param in rule.params)
    blanks = [
        _blank(param, file_shape(rule, spec)) for param, spec in zip(rule.params, own, strict=True)
    ]
    needed = write_tensors(rule.steps, blanks, sizes)
    names = _names(rule, layer, len(needed))
    shapes = {name: each.shape for name, each in zip(names, needed, strict=True)}
    return Place(rule, layer, own, shapes, sizes)


def file_shape(rule: TensorRule, spec: ParamSpec) -> tuple[int, ...]:
    """The shape of a parameter with its last axes in the order of the rule's tensors."""
    if not rule.transposed:
        return spec.shape
    *others, num_inputs, num_outputs = spec.shape
    return (*others, num_outputs, num_inputs)


def _names(rule: TensorRule, layer: int | None, count: int) -> list[str]:
    """The names of `count` tensors."""
    experts = range(count // len(rule.tensors))
    return [
        name.format(layer=layer, expert=expert)
        for name in rule.tensors
        for expert in (experts if "{expert}" in name else (0,))
    ]


def _blank(name: str, shape: tuple[int, ...]) -> StoredTensor:
    """A tensor with a shape and no data."""

    def read(start: int, stop: int) -> np.ndarray:
        raise AssertionError(f"{name} is a shape alone")

    return StoredTensor(name=name, shape=shape, dtype="", num_bytes=0, read=read)


def _split(
    whole: StoredTensor, shares: Sequence[Size], axis: int, groups: Size, sizes: Sizes
) -> list[StoredTensor]:
    num_groups = _number(groups, sizes)
    bounds = _bounds(whole.shape[axis] // num_groups, shares, sizes)
    if axis:
        return [narrowed(whole, axis, *each) for each in bounds]
    group = whole.shape[0] // num_groups
    starts = [group * index for index in range(num_groups)]
    return [rows_of([Range(whole, at + start, at + stop) for at in starts])
            for start, stop in bounds]  # fmt: skip


def _side_by_side(
    parts: Sequence[StoredTensor], axis: int, groups: Size, sizes: Sizes
) -> StoredTensor:
    if axis:
        return joined(parts, axis)
    num_groups = _number(groups, sizes)
    widths = [part.shape[0] // num_groups for part in parts]
    return rows_of(
        [
            Range(part, index * width, (index + 1) * width)
            for index in range(num_groups)
            for part, width in zip(parts, widths, strict=True)
        ]
    )


def _regrouped(tensors: Sequence[StoredTensor], step: Regroup, sizes: Sizes) -> StoredTensor:
    parts, shares = [], iter(step.shares)
    for tensor, count in zip(tensors, step.counts, strict=True):
        parts += _split(tensor, list(itertools.islice(shares, count)), 0, 1, sizes)
    return _side_by_side(parts, 0, step.num_groups, sizes)


def _by_part(whole: StoredTensor, step: Regroup, sizes: Sizes) -> list[StoredTensor]:
    parts = iter(_split(whole, step.shares, 0, step.num_groups, sizes))
    return [
        _side_by_side(list(itertools.islice(parts, count)), 0, 1, sizes) for count in step.counts
    ]


def _bounds(size: int, shares: Sequence[Size], sizes: Sizes) -> list[tuple[int, int]]:
    """The begin and end of each part of an axis."""
    numbers = [_number(share, sizes) for share in shares]
    whole = sum(numbers)
    assert not any(number * size % whole for number in numbers), (
        f"an axis of {size} is not in the proportions {numbers}"
    )
    ends = [0, *itertools.accumulate(number * size // whole for number in numbers)]
    return list(itertools.pairwise(ends))


def _halves(step: Interleave, sizes: Sizes) -> np.ndarray:
    """For each row of a head with separate halves, its index if they are interleaved."""
    head = _number(step.head_rows, sizes)
    return np.arange(head).reshape(head // 2, 2).T.reshape(-1)


def _number(size: Size, sizes: Sizes) -> int:
    if isinstance(size, int):
        return size
    return math.prod(sizes[name] for name in ((size,) if isinstance(size, str) else size))
