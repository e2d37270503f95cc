"""Accelerators are found in the machine's files, which are written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.kernels.hardware import AMD, NVIDIA, TPU, Accelerator, driver_version, find_accelerators


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030200", (NVIDIA,)),
        ("0x1002", "0x120000", (AMD,)),
        ("0x1002", "0x030000", ()),  # the graphics of a desktop
        ("0x1ae0", "0xff0000", (TPU,)),
        ("0x8086", "0x030000", ()),
    ],
)
def test_the_pci_bus(
    vendor: str, kind: str, found: tuple[Accelerator, ...], tmp_path: Path
) -> None:
    for name, text in (("vendor", vendor), ("class", kind)):
        write(tmp_path, f"sys/bus/pci/devices/0000:01:00.0/{name}", text + "\n")
    assert find_accelerators(tmp_path) == found


def test_a_container_shows_only_the_drivers_files(tmp_path: Path) -> None:
    assert find_accelerators(tmp_path) == ()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "kfd", "accel0"):
        write(tmp_path, f"dev/{name}")
    assert find_accelerators(tmp_path) == (NVIDIA, NVIDIA, AMD, TPU)


def test_a_folder_of_other_accelerators_is_no_tpu(tmp_path: Path) -> None:
    write(tmp_path, "dev/accel0/accel0")
    assert find_accelerators(tmp_path) == ()


def test_a_card_on_the_bus_is_not_counted_again_by_its_file(tmp_path: Path) -> None:
    for name, text in (("vendor", "0x10de"), ("class", "0x030200")):
        write(tmp_path, f"sys/bus/pci/devices/0000:01:00.0/{name}", text)
    write(tmp_path, "dev/nvidia0")
    assert find_accelerators(tmp_path) == (NVIDIA,)


def test_versions_of_drivers(tmp_path: Path) -> None:
    assert driver_version("cuda", tmp_path) is None
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build\nGCC"
    write(tmp_path, "proc/driver/nvidia/version", line)
    write(tmp_path, "sys/module/amdgpu/version", "6.10.5\n")
    assert driver_version("cuda", tmp_path) == "580.159.04"
    assert driver_version("rocm", tmp_path) == "6.10.5"
    assert driver_version("tpu", tmp_path) is None
