"""The free memory is the least of the machine's and of its control groups'."""

from __future__ import annotations

from pathlib import Path

from flaxen.memory.free_memory import free_bytes

KIB = 1024
MEMINFO = f"MemTotal: {2000} kB\nMemFree: 100 kB\nMemAvailable: {1000} kB\nHugePages_Total: 0\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    """Writes the files that a system shows."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(most: object, used: int, cached: int = 0) -> dict[str, str]:
    stat = f"anon 7\ninactive_file {cached}\n"
    return {"memory.max": f"{most}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def below(directory: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{directory}/{name}": text for name, text in files.items()}


def test_without_limits_it_is_what_is_available(tmp_path: Path) -> None:
    assert free_bytes(machine(tmp_path, {})) == 1000 * KIB
    files = {"proc/self/cgroup": "0::/\n", **below("sys/fs/cgroup", group("max", 5))}
    assert free_bytes(machine(tmp_path, files)) == 1000 * KIB


def test_the_tightest_group_counts_and_cached_files_are_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user/service\n",
        **below("sys/fs/cgroup/user", group(700 * KIB, 500 * KIB, 100 * KIB)),
        **below("sys/fs/cgroup/user/service", group(900 * KIB, 100 * KIB)),
    }
    assert free_bytes(machine(tmp_path, files)) == 300 * KIB


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/\n", **below("sys/fs/cgroup", group(5, 50))}
    assert free_bytes(machine(tmp_path, files)) == 0


def test_the_first_version_of_groups(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "9:cpu,cpuacct:/\n4:memory:/docker/not-visible-here\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(600 * KIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(500 * KIB),
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * KIB}\n",
    }
    assert free_bytes(machine(tmp_path, files)) == 150 * KIB


def test_another_system_does_not_say(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
