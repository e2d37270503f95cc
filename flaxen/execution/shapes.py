"""The shapes for which steps are compiled. Deliberately does not know JAX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flaxen.execution.step_sizes import DEFAULTS
from flaxen.kernels.backend import Backend
from flaxen.scheduling.config import EngineConfig


@dataclass(frozen=True, kw_only=True, order=True)
class Shape:
    """The shape of a compiled step: T tokens of at most S sequences. Steps are padded to it."""

    num_tokens: int  # T
    num_seqs: int  # S


def step_shapes(config: EngineConfig) -> tuple[Shape, ...]:
    """The shapes of a configuration, smallest first; the last one fits the largest step."""
    largest = config.max_num_batched_tokens
    default = DEFAULTS[Backend.REFERENCE].compiled
    sizes = config.compile_sizes or [*(size for size in default if size < largest), largest]
    return tuple(Shape(num_tokens=t, num_seqs=min(t, config.max_num_seqs)) for t in sorted(sizes))


def smallest_shape(shapes: Iterable[Shape], num_tokens: int, num_seqs: int) -> Shape:
    """The smallest shape that fits the step."""
    return min(s for s in shapes if s.num_tokens >= num_tokens and s.num_seqs >= num_seqs)
