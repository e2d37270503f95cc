"""The probes, on files and processes that are made here."""

from __future__ import annotations

import importlib
import json
import os
import socket
from pathlib import Path

from flaxen.cli.doctor.command import gather
from flaxen.cli.doctor.computing import read_lines
from flaxen.doctor.machine import probe_machine
from flaxen.doctor.places import is_free, look_at
from flaxen.doctor.software import describe_source, probe_software

CPUINFO = (
    "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 fma f16c amx_bf16\n\nprocessor : 1\n"
)
MEMINFO = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\n"


def make_root(root: Path, **files: str) -> Path:
    given = {"proc/cpuinfo": CPUINFO, "proc/meminfo": MEMINFO, **files}
    for name, text in given.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_machine_without_limits(tmp_path: Path) -> None:
    found = probe_machine(make_root(tmp_path), num_allowed_cpus=1)
    assert (found.cpu, found.num_cpus, found.num_allowed_cpus) == ("Some CPU", 2, 1)
    assert found.cpu_features == ("avx2", "fma", "f16c", "amx_bf16")
    assert (found.memory_bytes, found.available_bytes) == (1_024_000, 614_400)
    assert (found.num_quota_cpus, found.memory_limit_bytes, found.accelerators) == (None, None, ())


def test_limits_of_control_groups(tmp_path: Path) -> None:
    """The smallest limit counts, of the group itself and of those above it."""
    root = make_root(
        tmp_path / "two",
        **{
            "proc/self/cgroup": "0::/slice/job\n",
            "sys/fs/cgroup/slice/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/slice/job/memory.max": "500000\n",
            "sys/fs/cgroup/slice/memory.max": "max\n",
        },
    )
    found = probe_machine(root, num_allowed_cpus=2)
    assert (found.num_quota_cpus, found.memory_limit_bytes) == (1.5, 500_000)
    root = make_root(
        tmp_path / "one",
        **{
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",  # a container sees its own at the top
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    found = probe_machine(root, num_allowed_cpus=2)
    assert (found.num_quota_cpus, found.memory_limit_bytes) == (0.5, None)


def test_accelerators_by_their_pci_class(tmp_path: Path) -> None:
    devices = {
        "0": ("0x10de", "0x030200"),
        "1": ("0x1ae0", "0x020000"),
        "2": ("0x1ae0", "0x120000"),
    }
    files = {}
    for name, (vendor, kind) in devices.items():
        files[f"sys/bus/pci/devices/{name}/vendor"] = vendor
        files[f"sys/bus/pci/devices/{name}/class"] = kind
    found = probe_machine(make_root(tmp_path, **files), num_allowed_cpus=2)
    assert found.accelerators == ("NVIDIA GPU", "Google TPU")  # 1 is a network card


def test_where_flaxen_comes_from() -> None:
    assert describe_source(None) == "installed from a package index"
    assert describe_source({"url": "file:///tmp/x.whl"}) == "installed from /tmp/x.whl"
    given = {"url": "https://host/x", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    assert describe_source(given) == "installed from https://host/x at 0123456789ab"
    given = {"url": "file:///nowhere", "dir_info": {"editable": True}}
    assert describe_source(given) == "editable from /nowhere"
    assert describe_source({"url": "file:///nowhere", "dir_info": {}}) == "built from /nowhere"


def test_this_installation_fits_itself() -> None:
    found = probe_software()
    base = {each.name: each for each in found.requirements if each.extra is None}
    assert base["jax"].fits
    assert base["jax"].version == found.versions["jax"]
    extras = {each.extra for each in found.requirements}
    assert {None, "torch", "flax", "parquet"} <= extras
    assert "dev" not in extras


JAX = json.dumps({"platform": "cpu", "devices": ["cpu:0"]}) + "\n"
KERNELS = {
    "isa": "avx2", "supported": ["avx2"], "num_threads": 2, "has_accelerator": False,
    "missing_reason": None,
}  # fmt: skip


def test_a_process_that_ends_early_has_told_what_it_knew() -> None:
    found = read_lines(JAX, "", -4, measure=True)
    assert (found.platform, found.jax_error) == ("cpu", None)
    assert found.kernels_error == "the process was ended by SIGILL"
    assert found.speeds_error is None  # it was not their turn
    found = read_lines("", "a\nSegmentation fault\n", 139, measure=True)
    assert found.jax_error == "Segmentation fault"
    found = read_lines(JAX + json.dumps({"kernels": KERNELS}), "", 0, measure=False)
    assert found.kernels is not None
    assert found.kernels.supported == ("avx2",)
    assert (found.speeds, found.speeds_error) == (None, None)


def test_a_directory_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_bytes(b"x" * 5000)
    there = look_at("n", tmp_path / "here", "V")
    assert there.is_writable
    assert there.used_bytes >= 5000
    missing = look_at("n", tmp_path / "not" / "yet", "V")
    assert missing.is_writable
    assert missing.used_bytes == 0
    assert missing.free_bytes == there.free_bytes
    assert not look_at("n", tmp_path / "here" / "file" / "under", "V").is_writable
    assert not (tmp_path / "not").exists()


def test_whether_a_port_is_free() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


def test_a_probe_that_fails_stops_no_other() -> None:
    def fail() -> None:
        raise OSError("no /proc")

    def miss() -> None:
        importlib.import_module("no_such_module")

    found = gather({"machine": fail, "places": miss, "software": os.getpid})
    machine, places = found["failures"]
    assert (machine.probe, machine.error, machine.module) == ("machine", "OSError: no /proc", None)
    assert (places.probe, places.module) == ("places", "no_such_module")
    assert found["software"] == os.getpid()
