"""Tensor rules: how a file's tensors correspond to a model's parameters, in both directions.

A rule is data. `weights/rules.py` applies it to read parameters and to write files. Deliberately
does not know any family, file format, or how tensors are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

# A number, or the name of one: a whole-number field of the layer's parts. Several names stand for
# their product.
Size = int | str | tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Splits one tensor along an axis into one part for each of `shares`, e.g. fused q, k and v."""

    shares: tuple[Size, ...]  # the sizes of the parts are proportional to these
    axis: int = 0
    groups: Size = 1  # axis 0 consists of this many equal groups, which are split separately


@dataclass(frozen=True)
class Concat:
    """The inverse of Split: concatenates one tensor for each of `shares` to one parameter."""

    shares: tuple[Size, ...]
    axis: int = 0


@dataclass(frozen=True)
class Stack:
    """Stacks tensors of one shape along a new first axis: experts."""


@dataclass(frozen=True)
class Interleave:
    """Reorders the rows of each head: the tensor alternates rows of the first and second half, for
    interleaved rope, as in GGUF files of Llama; the parameter has the first half before the second.
    """

    head_rows: Size


@dataclass(frozen=True)
class ByHead:
    """Makes a weight of each head: [heads * rows, columns] becomes [heads, rows, columns]."""

    num_heads: Size
    turned: tuple[bool, ...]  # for each tensor: it becomes [heads, columns, rows]


@dataclass(frozen=True)
class Alternate:
    """Splits one tensor along an axis into two: the even numbers, and the odd ones."""

    axis: int  # the last, or that before it


@dataclass(frozen=True)
class DropAxis:
    """Drops axis 1, which has the size 1, as in the weight [C, 1, K] of a depthwise convolution."""


@dataclass(frozen=True)
class PlusOne:
    """The tensor is the parameter plus 1: the weight of a norm, of which the parameter is the
    distance from 1, as in GGUF files of Gemma.
    """


@dataclass(frozen=True)
class NegatedExp:
    """The tensor is -exp of the parameter: the decay of a state, as in GGUF files."""


@dataclass(frozen=True)
class ByGroup:
    """Makes a vector of one row for each group, as in GGUF files of Mamba-2: [G, N / G] becomes
    [N].
    """

    num_groups: Size


@dataclass(frozen=True)
class Regroup:
    """Concatenates tensors of parts that lie one after another to one parameter, in which each
    group has its own piece of every part, one after another.
    """

    shares: tuple[Size, ...]  # the sizes of the parts are proportional to these
    counts: tuple[int, ...]  # how many of the parts each tensor has
    num_groups: Size


Step = (
    Split | Concat | Stack | Interleave | ByHead | Alternate | DropAxis | PlusOne | NegatedExp
    | ByGroup | Regroup
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Some parameters, their tensors in a file, and the steps from tensors to parameters.

    A rule for a layer's parameters applies to each layer. It is used if the model has its
    parameters, and a model has all of them or none. In names, {layer} stands for the layer's number
    and {expert} for the numbers of all experts, from 0.
    """

    params: tuple[str, ...]
    tensors: tuple[str, ...]
    steps: tuple[Step, ...] = ()  # without steps, the tensors are the parameters
    transposed: bool = False  # tensors are [..., out, in], the parameters [..., in, out]


Rules = tuple[TensorRule, ...]


def as_is(param: str, tensor: str, *steps: Step) -> TensorRule:
    """The rule of a vector or a table, which a file stores unchanged."""
    return TensorRule(params=(param,), tensors=(tensor,), steps=steps)


def matrix(param: str, tensor: str, *steps: Step) -> TensorRule:
    """The rule of a matrix or of experts, which files store as [out, in]."""
    return TensorRule(params=(param,), tensors=(tensor,), steps=steps, transposed=True)


def taps(param: str, tensor: str) -> TensorRule:
    """The rule of a depthwise convolution's weight [K, C], which files store as [C, 1, K]."""
    return TensorRule(params=(param,), tensors=(tensor,), steps=(DropAxis(),), transposed=True)


def with_rules(rules: Rules, *others: TensorRule) -> Rules:
    """Replaces the rules of the same parameters by others."""
    covered = {param for rule in others for param in rule.params}
    return (*(rule for rule in rules if not covered & set(rule.params)), *others)


def renamed(rules: Rules, names: Mapping[str, str]) -> Rules:
    """Replaces parts of the tensors' names, each by its entry in `names`, in the given order."""

    def new(name: str) -> str:
        for old, other in names.items():
            name = name.replace(old, other)
        return name

    return tuple(replace(rule, tensors=tuple(map(new, rule.tensors))) for rule in rules)


def with_steps(rules: Rules, params: tuple[str, ...], *steps: Step) -> Rules:
    """Replaces the steps in the rules of these parameters."""
    return tuple(replace(rule, steps=steps) if set(rule.params) & set(params) else rule
                 for rule in rules)  # fmt: skip


def tensor_of(rules: Rules, param: str) -> str:
    """The name of a parameter's tensor, with {layer} for the layer's number."""
    return next(rule.tensors[0] for rule in rules if param in rule.params)
