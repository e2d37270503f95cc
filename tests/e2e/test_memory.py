"""A server takes its weights, its KV cache and little else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.serving import CAPITAL, ONCE, Server, serve

pytestmark = pytest.mark.slow

MIB = 1 << 20
POOL_BYTES = 64 * MIB
# 134.5 million parameters in bfloat16.
WEIGHT_BYTES = 257 * MIB
OTHER_BYTES = 600_000_000


def peak_bytes(server: Server) -> int:
    """The most memory that the process had at once, its files' mapped pages included."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("this system does not say how much memory a process had")


def test_peak_memory_of_a_server(compile_cache: Path, tmp_path: Path) -> None:
    options = (
        "--dtype", "bfloat16", "--quantization", "none", "--kv-cache-size", "64MiB",
        "--max-model-len", "1024", "--max-num-seqs", "16",
    )  # fmt: skip
    # An empty directory of compiled steps: compiling takes memory too.
    with serve(tmp_path / "cache", tmp_path / "log", *options) as server:
        for _ in range(3):
            server.complete([ONCE] * 8, max_tokens=16, logprobs=5, temperature=1, top_p=0.9)
            server.complete("word " * 500, max_tokens=4)
            server.chat(CAPITAL, max_tokens=8)
        server.wait_until_idle()
        peak = peak_bytes(server)
    assert peak <= WEIGHT_BYTES + POOL_BYTES + OTHER_BYTES, f"{peak / MIB:.0f} MiB"
