"""Looks for the accelerators of the machine, whether or not JAX can compute on them.

Reads Linux's files under a root directory, so that a test can write its own. Deliberately does not
know JAX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One accelerator of the machine."""

    device: str  # as the option --device calls its kind: cuda, rocm, tpu
    name: str  # for messages


NVIDIA = Accelerator(device="cuda", name="NVIDIA GPU")
AMD = Accelerator(device="rocm", name="AMD GPU")
TPU = Accelerator(device="tpu", name="Google TPU")

# PCI's vendor and the first byte of the device's class. AMD's cards of class 03 are mostly the
# graphics of a desktop, which ROCm has no code for.
_PCI = {
    ("0x10de", "03"): NVIDIA,
    ("0x1002", "12"): AMD,
    ("0x1ae0", "12"): TPU,
    ("0x1ae0", "ff"): TPU,
}
# A driver's device files, for containers that do not show the PCI bus.
_FILES = {"nvidia[0-9]*": NVIDIA, "kfd": AMD, "accel[0-9]*": TPU}

# Where a driver says its version.
_DRIVERS = {"cuda": "proc/driver/nvidia/version", "rocm": "sys/module/amdgpu/version"}


def find_accelerators(root: Path = Path("/")) -> tuple[Accelerator, ...]:
    """Finds the machine's accelerators, each as often as it is there.

    Args:
      root: where dev/ and sys/ are.
    """
    on_bus = tuple(_on_bus(root))
    more = [
        kind
        for pattern, kind in _FILES.items()
        for path in sorted((root / "dev").glob(pattern))
        if kind not in on_bus and not path.is_dir()
    ]
    return (*on_bus, *more)


def _on_bus(root: Path) -> Iterator[Accelerator]:
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        vendor, kind = _read(device / "vendor"), _read(device / "class")
        if found := _PCI.get((vendor, kind[2:4])):
            yield found


def driver_version(device: str, root: Path = Path("/")) -> str | None:
    """The version of a device's driver; None if the driver does not say one, or is not loaded."""
    path = _DRIVERS.get(device)
    found = re.search(r"\b\d+\.\d[\d.]*", _read(root / path)) if path else None
    return found.group() if found else None


def _read(path: Path) -> str:
    """A small file's text; "" if it is not there for this process."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
