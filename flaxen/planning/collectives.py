"""Counts the collectives of a step in the text of its compiled program.

Deliberately does not know models, nor how fast links are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """Collectives of one kind, over groups of one size."""

    kind: str  # one of KINDS
    num_devices: int  # of a group
    count: int
    num_bytes: int  # of the results on one device, of all of them


def sent_bytes(each: Collective) -> float:
    """The bytes that one device sends in a ring: each part goes around once, for a sum twice."""
    steps = each.num_devices - 1
    share = steps / each.num_devices
    factor = {
        "all-reduce": 2 * share,
        "all-gather": share,
        "reduce-scatter": float(steps),  # the result is one part of what is summed
        "all-to-all": share,
        "collective-permute": 1.0,
    }
    return factor[each.kind] * each.num_bytes


def read_collectives(text: str, num_devices: int) -> tuple[Collective, ...]:
    """Counts the collectives of one run of a program.

    Those in a loop count as often as it runs, if the compiler knows that; of the branches of a
    condition the one that sends least counts: the step that nobody asks more of.

    Args:
      text: the compiled program, as `compiled.as_text()`.
      num_devices: how many devices run it: the group of a collective that names none.
    """
    computations = _computations(text)
    found: dict[tuple[str, int], Collective] = {}
    for each in _of(computations.get("ENTRY", []), computations, num_devices):
        key = each.kind, each.num_devices
        before = found.get(key, replace(each, count=0, num_bytes=0))
        found[key] = replace(
            each, count=before.count + each.count, num_bytes=before.num_bytes + each.num_bytes
        )
    return tuple(sorted(found.values(), key=lambda each: -each.num_bytes))


# %name = result operation(operands), attributes; a result may be a tuple, with its layouts.
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z\-]*)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]+m[0-9]+\w*)?)\[([\d,]*)\]")
# A reduce-scatter on a TPU is a fusion of this name: a sum, of which each device cuts its part.
_SCATTERED = "all-reduce-scatter"
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"\b(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_GROUPS_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_GROUPS_OF_ARRAY = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=")
_GROUPS_OF_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation, by its name; those of the program itself are ENTRY."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = found.setdefault("ENTRY" if header[1] else header[2], [])
        elif line.startswith(" "):
            lines.append(line)
    return found


def _of(
    lines: list[str], computations: dict[str, list[str]], num_devices: int
) -> Iterator[Collective]:
    """The collectives of a computation and of those that it calls, once for each run."""

    def called(name: str) -> list[Collective]:
        return list(_of(computations.get(name, []), computations, num_devices))

    for line in lines:
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        result, operation, rest = match.groups()
        kind = operation.removesuffix("-start")
        if kind in KINDS:
            yield Collective(
                kind=kind,
                num_devices=_group_size(rest, num_devices),
                count=1,
                num_bytes=_result_bytes(result, operation),
            )
        elif operation == "while" and (body := _BODY.search(rest)):
            trips = _TRIPS.search(rest)
            yield from called(body[1]) * (int(trips[1]) if trips else 1)
        elif operation == "conditional":
            listed = _BRANCHES.search(rest)
            names = listed[1].split(",") if listed else _TWO_BRANCHES.findall(rest)
            branches = [called(name.strip().lstrip("%")) for name in names]
            yield from min(branches, key=lambda each: sum(map(sent_bytes, each)), default=[])
        elif operation in ("call", "fusion", "async-start") and (name := _CALLED.search(rest)):
            inner = called(name[1])
            if name[1].startswith(_SCATTERED):
                num_bytes = _result_bytes(result, operation)
                inner = [
                    replace(each, kind="reduce-scatter", num_bytes=num_bytes) for each in inner
                ]
            yield from inner


def _group_size(attributes: str, num_devices: int) -> int:
    """The number of devices that take part together."""
    if listed := _GROUPS_LISTED.search(attributes):
        return len(listed[1].split(",")) if listed[1] else num_devices
    if array := _GROUPS_OF_ARRAY.search(attributes):
        return int(array[2])
    if mesh := _GROUPS_OF_MESH.search(attributes):
        sizes = {name: int(size) for name, size in _MESH_AXIS.findall(mesh[1])}
        return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", mesh[2]))
    return num_devices


def _result_bytes(result: str, operation: str) -> int:
    """The bytes of a result; one that only starts has its operands before its results."""
    arrays = _ARRAY.findall(result)
    if operation in ("all-gather-start", "collective-permute-start"):
        arrays = [each for each in arrays if each[1]]  # without the numbers that are its state
        arrays = arrays[len(arrays) // 2 :]
    return sum(_num_bytes(dtype, shape) for dtype, shape in arrays)


def _num_bytes(dtype: str, shape: str) -> int:
    bits = re.search(r"\d+", dtype)
    count = math.prod(map(int, shape.split(","))) if shape else 1
    return -(-count * (int(bits[0]) if bits else 8) // 8)  # pred has a byte
