"""How the tensors of a file and the parameters of a model correspond: rules that hold both ways.

A rule is data. `weights/rules.py` reads parameters by it and writes files by it. Deliberately does
not know any family, file format, or how tensors are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Size = int | str  # a number, or the name of DecoderConfig's field that holds it


@dataclass(frozen=True)
class Split:
    """One tensor is cut along an axis into one part for each of `shares`: fused q, k and v."""

    shares: tuple[Size, ...]  # the parts' sizes are in proportion to these
    axis: int = 0
    groups: Size = 1  # along axis 0 lie so many equal groups, each of which is cut by itself


@dataclass(frozen=True)
class Concat:
    """The inverse of Split: one tensor for each of `shares` lie side by side in one parameter."""

    shares: tuple[Size, ...]
    axis: int = 0


@dataclass(frozen=True)
class Stack:
    """Tensors of one shape become one, with their number as a new first axis: experts."""


@dataclass(frozen=True)
class Interleave:
    """The tensor has each head's rows as interleaved rope pairs them: first and second half's rows
    in turn. The parameter has the first half before the second. As GGUF files of Llama are."""

    head_rows: Size


Step = Split | Concat | Stack | Interleave


@dataclass(frozen=True, kw_only=True)
class TensorRule:
    """Some parameters, the tensors that hold them, and the steps from tensors to parameters.

    A rule is about one layer if its parameters are a layer's; it is used where the model has its
    parameters, and a model has all of them or none. {layer} in a name stands for the layer's
    number, and {expert} for the numbers of all experts, from 0.
    """

    params: tuple[str, ...]
    tensors: tuple[str, ...]
    steps: tuple[Step, ...] = ()  # none: the tensors are the parameters
    transposed: bool = False  # tensors are [..., out, in], the parameters [..., in, out]


Rules = tuple[TensorRule, ...]


def as_is(param: str, tensor: str, *steps: Step) -> TensorRule:
    """The rule of a vector or a table: it lies in the file as the model has it."""
    return TensorRule(params=(param,), tensors=(tensor,), steps=steps)


def matrix(param: str, tensor: str, *steps: Step) -> TensorRule:
    """The rule of a matrix or of experts, which files hold [out, in]."""
    return TensorRule(params=(param,), tensors=(tensor,), steps=steps, transposed=True)


def with_rules(rules: Rules, *others: TensorRule) -> Rules:
    """The same, with other rules in place of those about the same parameters."""
    covered = {param for rule in others for param in rule.params}
    return (*(rule for rule in rules if not covered & set(rule.params)), *others)


def with_steps(rules: Rules, params: tuple[str, ...], *steps: Step) -> Rules:
    """The same, with these steps in the rules about these parameters."""
    return tuple(replace(rule, steps=steps) if set(rule.params) & set(params) else rule
                 for rule in rules)  # fmt: skip


def tensor_of(rules: Rules, param: str) -> str:
    """The name of the tensor that holds a parameter, with {layer} for the layer's number."""
    return next(rule.tensors[0] for rule in rules if param in rule.params)
