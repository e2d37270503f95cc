"""The parts of the check in their order, and the time of each. One visible table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the check."""

    name: str
    module: str  # in this package
    arguments: tuple[str, ...] = ()
    # Its share of the time, beside what the parts before it have left. It is ended then, and what
    # it has found is kept.
    limit_s: float
    takes_limits: bool = False  # it wants the figures of the part `limits`
    is_foreign: bool = False  # it runs with the machine's libraries alone


# What decides whether anything is right comes before what says how fast it is. An H100 starts a
# process with JAX in 5 to 10 seconds; most of the rest is compilation.
PARTS: tuple[Part, ...] = (
    Part(name="limits", module="limits", limit_s=20),
    Part(name="kernels", module="kernels", limit_s=45),
    Part(name="answers", module="answers", limit_s=55),
    Part(name="8b", module="speed", arguments=("--shape=8b",), limit_s=85, takes_limits=True),
    Part(name="1b", module="speed", arguments=("--shape=1b",), limit_s=45, takes_limits=True),
    Part(
        name="8b-int8",
        module="speed",
        arguments=("--shape=8b", "--weights=int8", "--streams=64,1,256"),
        limit_s=45,
        takes_limits=True,
    ),
    Part(
        name="1b-int8",
        module="speed",
        arguments=("--shape=1b", "--weights=int8", "--streams=64,1,256"),
        limit_s=25,
        takes_limits=True,
    ),
    Part(
        name="1b-invariant",
        module="speed",
        arguments=("--shape=1b", "--backend=gpu-invariant", "--streams=64"),
        limit_s=20,
        takes_limits=True,
    ),
    Part(
        name="1b-xla-attention",
        module="speed",
        arguments=("--shape=1b", "--backend=reference", "--streams=64"),
        limit_s=20,
        takes_limits=True,
    ),
    Part(
        name="1b-transformers",
        module="peer",
        arguments=("--shape=1b",),
        limit_s=40,
        is_foreign=True,
    ),
    Part(
        name="8b-transformers",
        module="peer",
        arguments=("--shape=8b",),
        limit_s=45,
        is_foreign=True,
    ),
    Part(name="lora-1b", module="training", limit_s=35, takes_limits=True),
)
TOTAL_S = 480.0
