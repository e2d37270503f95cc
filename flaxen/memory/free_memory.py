"""Measures the memory that this process may still take: the machine's, or its container's.

Deliberately does not know what the memory is for, nor how much of it anybody takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def free_bytes(root: Path = Path("/")) -> int | None:
    """The bytes that can be taken without swapping, caches of files counted as free.

    It is the least of what the machine has left and what each control group (of a container or a
    service) has left.

    Args:
      root: where proc/ and sys/ are.

    Returns:
      The number of bytes; None where the system does not say, because it is not Linux.
    """
    available = _fields(root / "proc/meminfo").get("MemAvailable:")
    if available is None:
        return None
    return max(0, min([available * 1024, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What the limits of this process's control groups and of those around them leave."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers == "":  # version 2
            mounted, limit, current, cached = "", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mounted, limit, current = "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        mount = root / "sys/fs/cgroup" / mounted
        own = mount / name.lstrip("/")  # in a container the group's directory may not be visible
        for group in (own, *own.parents):
            most, used = _read(group / limit).strip(), _read(group / current).strip()
            if most.isdigit() and used.isdigit():
                yield int(most) - int(used) + _fields(group / "memory.stat").get(cached, 0)
            if group == mount:
                break


def _fields(path: Path) -> dict[str, int]:
    """The lines "name number" of a file."""
    words = [line.split() for line in _read(path).splitlines()]
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _read(path: Path) -> str:
    """A file's text; "" if it does not exist or may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
