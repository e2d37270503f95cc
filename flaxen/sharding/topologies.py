"""TPU slices by name, `v6e-8`, as devices to compile for on a machine that has none.

libtpu, which `pip install 'flaxen[tpu]'` brings, contains the compiler. It needs the settings of
COMPILE_ENVIRONMENT before it is loaded; only `cli` and the tests set an environment. Deliberately
does not know what is compiled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax.experimental import topologies

from flaxen.sharding.chips import CHIPS, Chip

# Without a TPU, libtpu would ask the network what machine this is, fill a log directory, and let
# one process at a time load it.
COMPILE_ENVIRONMENT: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

# The number in a target's name counts TensorCores, as in the names of the vendor, which also fix
# the arrangement of the chips: v5p-8 has 8 cores, which are 4 chips.
_FLAT = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
_CUBES = {
    2: "1x1x1",
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
}
_ARRANGEMENTS = {"v4": _CUBES, "v5e": _FLAT, "v5p": _CUBES, "v6e": _FLAT, "tpu7x": _CUBES}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A slice of TPU chips."""

    name: str  # v6e-8
    chip: Chip
    arrangement: str  # the chips in their network, 2x4
    num_devices: int  # as JAX shows them


def find_target(name: str) -> Target:
    """Finds a slice by the vendor's name for it, as `v5e-8`, `v6e-8`, `v5p-8`, `v4-8`.

    Args:
      name: a chip of CHIPS and the number of TensorCores.

    Raises:
      ValueError: there is no such slice.
    """
    kind, _, count = name.partition("-")
    if kind not in _ARRANGEMENTS:
        raise ValueError(
            f"the target {name!r} is not a TPU that flaxen knows: name one of "
            f"{', '.join(_ARRANGEMENTS)} and its number of cores, as v6e-8"
        )
    arrangements = _ARRANGEMENTS[kind]
    found = arrangements.get(int(count)) if count.isdecimal() else None
    if found is None:
        sizes = ", ".join(f"{kind}-{size}" for size in arrangements)
        raise ValueError(f"there is no slice {name!r}: name one of {sizes}")
    chip = CHIPS[kind]
    return Target(
        name=name,
        chip=chip,
        arrangement=found,
        num_devices=int(count) // chip.cores_per_device,
    )


def has_compiler() -> bool:
    """Whether the compiler for TPUs is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compile_devices(target: Target, *, is_installed: bool | None = None) -> list[jax.Device]:
    """The devices of a slice, to make a mesh and compile for; nothing can run on them.

    Args:
      target: the slice.
      is_installed: whether the compiler is; None checks.

    Raises:
      ValueError: the compiler is not installed.
    """
    if not (has_compiler() if is_installed is None else is_installed):
        raise ValueError(
            f"nothing can be compiled for {target.name}: libtpu, which has the compiler, is not "
            "installed: pip install 'flaxen[tpu]'"
        )
    options: dict[str, object] = {}
    if set(target.arrangement) == {"1", "x"}:  # hosts of several chips are assumed otherwise
        options["chips_per_host_bounds"] = [1, 1, 1]
    if target.chip.name == "v4":  # the two cores of a chip as one device, as on a real host
        options["chip_config_name"] = "megacore"
    found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{target.chip.name}:{target.arrangement}",
        **options,
    )
    return list(found.devices)
