"""Whether engines that are loaded at the same time fit into memory. Linux only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .compare import Engine
from .engines import cost

_MARGIN_BYTES = 1 << 30  # of each engine, for code and activations


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    meminfo = Path("/proc/meminfo").read_text(encoding="utf-8")
    return int(meminfo.partition("MemAvailable:")[2].split()[0]) * 1024


def check_memory(engines: Sequence[Engine], config: Mapping[str, Any], available: int) -> None:
    """Refuses to start engines that together would take more memory than there is.

    Args:
      engines: that would be loaded at the same time.
      config: of the model's directory, config.json.
      available: bytes.

    Raises:
      ValueError: they would.
    """
    wanted = sum(
        cost(engine, config).weight_bytes + engine.kv_bytes + _MARGIN_BYTES for engine in engines
    )
    if wanted > available:
        raise ValueError(
            f"{', '.join(engine.name for engine in engines)} would take about "
            f"{wanted / 1e9:.0f} GB at once, and {available / 1e9:.0f} GB are free: name fewer "
            "with --engine"
        )
