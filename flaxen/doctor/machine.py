"""Probes the hardware: what the machine has, and what the process may use of it.

Reads Linux's files under a root directory, so that a test can write its own. Deliberately does not
know JAX or our kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flaxen.doctor.facts import Machine
from flaxen.kernels.hardware import driver_version, find_accelerators

# What `csrc/isa.cpp` looks at when it chooses the kernels, as Linux spells it.
_FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16",
    "avx512_vnni", "amx_tile", "amx_bf16",
)  # fmt: skip
_NO_LIMIT = 1 << 60  # version 1 of control groups writes a huge number for no limit


def probe_machine(root: Path, *, num_allowed_cpus: int) -> Machine:
    """Reads the machine's description.

    Args:
      root: `/`, or a directory with the same files.
      num_allowed_cpus: the CPUs of the process's affinity.

    Raises:
      OSError: /proc can't be read.
      ValueError: /proc says something else than Linux does.
    """
    cpu, features, num_cpus = _cpu(root)
    memory = _memory(root)
    return Machine(
        cpu=cpu,
        cpu_features=features,
        num_cpus=num_cpus,
        num_allowed_cpus=num_allowed_cpus,
        num_quota_cpus=_quota(root),
        memory_bytes=memory["MemTotal"],
        available_bytes=memory["MemAvailable"],
        memory_limit_bytes=_memory_limit(root),
        accelerators=tuple(each.name for each in find_accelerators(root)),
        drivers=tuple(_drivers(root)),
    )


def _cpu(root: Path) -> tuple[str, tuple[str, ...], int]:
    found: dict[str, str] = {}
    num_cpus = 0
    for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        num_cpus += name.strip() == "processor"
        found.setdefault(name.strip(), value.strip())
    flags = set(found.get("flags", "").split())
    name = found.get("model name") or found.get("CPU implementer") or "unknown"
    return name, tuple(each for each in _FEATURES if each in flags), num_cpus


def _memory(root: Path) -> dict[str, int]:
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, rest in (each.split(":") for each in lines)}


def _quota(root: Path) -> float | None:
    """The CPUs that the control group allows, the fewest of it and those above it."""
    quotas = []
    for directory in _groups(root, "cpu"):
        if text := _read(directory / "cpu.max"):  # version 2: "150000 100000" or "max 100000"
            quota, period = text.split()
        else:
            quota = _read(directory / "cpu.cfs_quota_us") or "max"
            period = _read(directory / "cpu.cfs_period_us") or "100000"
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_limit(root: Path) -> int | None:
    limits = []
    for directory in _groups(root, "memory"):
        text = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
        if text and text != "max" and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of the process's control group and of those above it, innermost first."""
    mount = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = mount / controller if controllers else mount
        group = top / path.lstrip("/")
        while group != top:
            yield group
            group = group.parent
        yield top  # in a container this is the container's own group


def _drivers(root: Path) -> Iterator[str]:
    """The drivers of the accelerators, with their versions."""
    for each in dict.fromkeys(find_accelerators(root)):
        if version := driver_version(each.device, root):
            yield f"{each.name} {version}"


def _read(path: Path) -> str | None:
    """A small file's text, or None if it is not there for this process."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
