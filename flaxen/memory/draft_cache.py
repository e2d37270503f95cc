"""Divides the memory of a KV cache between a model and its draft model (decision 0362).

Deliberately does not know: how much memory there is, models, JAX.
"""

from __future__ import annotations

from flaxen.memory.cache_plan import CachePlan, PoolReason

# The cache has what it can use, and there is more memory.
_UNBOUNDED = (PoolReason.ALL_SEQUENCES, PoolReason.TYPICAL)


def divide_cache(plan: CachePlan, draft: CachePlan, draft_param_bytes: int) -> tuple[int, int]:
    """The bytes of both caches, which then hold about as many tokens.

    Args:
      plan: of the model, as if there were no draft model.
      draft: of the draft model, as if it were alone.
      draft_param_bytes: of its weights, where nothing was set apart for them.

    Raises:
      ValueError: the weights of the draft model take all of it.
    """
    own, other = _token_bytes(plan), _token_bytes(draft)
    if plan.pool_reason in _UNBOUNDED:
        return plan.num_bytes, int(plan.num_bytes * other / own)
    left = plan.num_bytes
    if plan.pool_reason is not PoolReason.ASKED:
        left -= draft_param_bytes + (0 if draft.device is None else draft.device.step_bytes)
    if left <= 0:
        raise ValueError(
            f"the draft model's weights of {draft_param_bytes / 2**20:,.1f} MiB take all that the "
            f"KV cache would have ({plan.num_bytes / 2**20:,.1f} MiB): take a smaller or quantized "
            "draft model"
        )
    part = int(left * own / (own + other))
    return part, left - part


def _token_bytes(plan: CachePlan) -> float:
    return plan.whole_bytes / (plan.asked_len or plan.model_len)
