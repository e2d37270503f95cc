"""RMS norm with a gate, by which a recurrence's output is multiplied."""

from __future__ import annotations

from jaxtyping import Array, Float

from flaxen.kernels.backend import Backend, find_implementation, implementations
from flaxen.recurrences.gated_norm import cpu, reference
from flaxen.recurrences.gated_norm.reference import Options

IMPLEMENTATIONS = implementations(reference.gated_norm, {Backend.CPU: cpu.gated_norm})


def gated_norm(
    x: Float[Array, "*B W"],
    gate: Float[Array, "*B W"],
    weight: Float[Array, W],
    eps: float,
    *,
    group: int | None = None,
    is_gate_first: bool,
    backend: Backend,
) -> Float[Array, "*B W"]:
    """norm(x) * weight * silu(gate), or norm(x * silu(gate)) * weight if the gate comes first.

    Args:
      x: [..., W].
      gate: like x.
      weight: [W].
      eps: added to the mean square, above 0.
      group: the width of the parts that are normed apart; None norms the whole width.
      is_gate_first: whether x is multiplied by the gate before it is normed.
      backend: what computes.

    Returns:
      [..., W] in x's dtype, computed in float32.

    Raises:
      ValueError: the groups do not divide the width.
    """
    width = x.shape[-1]
    group = width if group is None else group
    if group < 1 or width % group:
        raise ValueError(f"a norm of {width} numbers can't be divided into groups of {group}")
    run = find_implementation("gated_norm", IMPLEMENTATIONS, backend)
    return run(x, gate, weight, Options(eps, group, is_gate_first))
