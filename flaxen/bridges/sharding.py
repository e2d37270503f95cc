"""The names of the axes of a definition's parameters, by which a mesh divides them.

The names come from the framework's own metadata, and from rules that are matched on the names of
parameters. Deliberately does not know frameworks, nor meshes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from flaxen.models.model import Params
from flaxen.sharding.rules import RULES, check_axis

Axes = tuple[str | None, ...]
# A regular expression, searched for in a parameter's name, and the names of its axes.
ShardingRule = tuple[str, Sequence[str | None]]

_SHOWN = 5  # names in a message


def param_names(params: Params, *, trained: str | None) -> list[str]:
    """Each parameter's name: its path joined by dots, without the collection, as
    `blocks.0.up.kernel`.

    Args:
      params: the tree.
      trained: its trained collection; None if the tree has no collections.
    """
    first = 0 if trained is None else 1
    return [
        jax.tree_util.keystr(path[first:], simple=True, separator=".")
        for path, _ in jax.tree.flatten_with_path(params)[0]
    ]


def with_rules(
    axes: Sequence[Axes],
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    rules: Sequence[ShardingRule],
) -> list[Axes]:
    """The axes of each parameter: those of the first rule whose pattern is found in its name, or
    else its own.

    Args:
      axes: of each parameter, by its metadata.
      names: of the parameters.
      shapes: of the parameters.
      rules: in the order in which they are tried.

    Raises:
      ValueError: a pattern is no regular expression or is found in no name, an axis has no such
          name, or a parameter has another number of axes.
    """
    patterns = [(_compiled(pattern), _checked(pattern, names)) for pattern, names in rules]
    matched: set[int] = set()
    found: list[Axes] = []
    for own, name, shape in zip(axes, names, shapes, strict=True):
        ours = [index for index, (pattern, _) in enumerate(patterns) if pattern.search(name)]
        matched.update(ours)
        if not ours:
            found.append(own)
            continue
        wanted = patterns[ours[0]][1]
        if len(wanted) != len(shape):
            raise ValueError(
                f"the sharding rule {rules[ours[0]]} names {len(wanted)} axes, and {name} has "
                f"the shape {list(shape)}: give one name for each axis, None for those that are "
                "not divided, or a pattern that does not match it"
            )
        found.append(wanted)
    for index, (pattern, _) in enumerate(patterns):
        if index not in matched:
            raise ValueError(
                f"the sharding rule {pattern.pattern!r} matches no parameter: there are "
                f"{_some(names)}"
            )
    return found


def metadata_axes(
    names: Any, ndim: int, rules: Mapping[str, Any] | Sequence[tuple[str, Any]] | None, what: str
) -> Axes:
    """A parameter's axes by the metadata of a framework.

    Args:
      names: one for each axis, or fewer, as in a PartitionSpec; None if there are none.
      ndim: the number of axes.
      rules: from the names to others, as Flax keeps them beside a parameter; None for none.
      what: the parameter, for the message.

    Raises:
      ValueError: one axis has several names, or there are more names than axes.
    """
    table = dict(rules or ())
    found: list[str | None] = []
    for name in tuple(names or ()):
        if isinstance(name, str) and name not in RULES:  # a name that is ours needs no others
            name = table.get(name, name)
        several = tuple(name) if isinstance(name, tuple | list) else (name,)
        if len(several) > 1:
            raise ValueError(
                f"{what} divides one axis over {several}, which is not supported: name one of them"
            )
        found += several or (None,)
    if len(found) > ndim:
        raise ValueError(f"{what} has {ndim} axes, and its metadata names {len(found)}: {names}")
    return (*found, *[None] * (ndim - len(found)))


def head_size(
    axes: Axes,
    shape: tuple[int, ...],
    *,
    num_heads: Collection[int],
    num_kv_heads: Collection[int],
    head_dims: Collection[int],
) -> int:
    """The count of numbers along a parameter's heads that stay together: 1 where heads have an axis
    of their own.

    Args:
      axes: of the parameter.
      shape: the parameter's.
      num_heads: the numbers of query heads in the definition's layers.
      num_kv_heads: the numbers of KV heads.
      head_dims: the sizes of a head.
    """
    counts = {"heads": num_heads, "kv_heads": num_kv_heads}
    for name, size in zip(axes, shape, strict=True):
        if name in counts and size not in counts[name]:
            return max((each for each in head_dims if size % each == 0), default=1)
    return 1


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"the sharding rule {pattern!r} is no regular expression: {error}"
        ) from None


def _checked(pattern: str, names: Sequence[str | None]) -> Axes:
    for name in names:
        try:
            check_axis(name)
        except ValueError as error:
            raise ValueError(f"the sharding rule {pattern!r}: {error}") from None
    return tuple(names)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
