"""Group relative policy optimisation, https://arxiv.org/abs/2402.03300: advantages and the loss.

Deliberately does not know: sampling, how rewards are computed, optimizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.models.model import Model, Params
from flaxen.training.loss import Losses, Objective, Policy, Remat, token_logprobs

# How rewards and tokens are normalised: grpo divides by the group's standard deviation and by the
# completion's length, dr_grpo (https://arxiv.org/abs/2503.20783) by neither, so that a long wrong
# answer is not preferred to a short wrong one.
Variant = Literal["grpo", "dr_grpo"]


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """The sizes of a GRPO step, and the settings of its loss.

    Raises:
      ValueError: a value out of its range.
    """

    # Tokens of a row, which packs several completions; at least the longest one.
    sequence_length: int
    group_size: int = 8  # completions of each prompt
    num_updates: int = 1  # updates with the same completions; the first is on policy
    clip: float = 0.2  # how far the probability ratio may move from 1
    kl_beta: float = 0.0  # the weight of the KL penalty to the frozen parameters
    variant: Variant = "grpo"
    max_tokens: int | None = None  # the most tokens of a completion; dr_grpo divides by it
    microbatch_rows: int = 1  # rows of a microbatch: as many as memory allows

    def __post_init__(self) -> None:
        for name, least in {
            "sequence_length": 2, "group_size": 2, "num_updates": 1, "microbatch_rows": 1,
        }.items():  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must be above 0 and below 1, got {self.clip}")
        if not self.kl_beta >= 0:
            raise ValueError(f"kl_beta must be at least 0, got {self.kl_beta}")
        if self.variant not in get_args(Variant):
            raise ValueError(
                f"variant {self.variant!r} is not supported: use {' or '.join(get_args(Variant))}"
            )
        if self.variant == "dr_grpo" and (self.max_tokens is None or self.max_tokens < 1):
            raise ValueError(
                "dr_grpo divides by max_tokens, the longest that a completion may be: give it, at "
                f"least 1, got {self.max_tokens}"
            )
        if self.variant == "grpo" and self.max_tokens is not None:
            raise ValueError(
                f"max_tokens is {self.max_tokens}, and grpo divides by each completion's own "
                "length: leave it out, or use dr_grpo"
            )


class Rollouts(NamedTuple):
    """Packed completions. All float values are 0 at tokens that are not part of a completion."""

    batch: Batch  # loss weights are 1 / length, so that they sum to 1 for each completion
    old_logprobs: Any  # [B, T] float32: each target's log-probability when it was sampled
    advantages: Any  # [B, T] float32: the advantage of the target's completion


def group_advantages(rewards: Sequence[float], variant: Variant = "grpo") -> np.ndarray:
    """How much better each completion of one prompt is than the group's mean.

    Args:
      rewards: the rewards of the group.
      variant: grpo divides by the group's standard deviation.

    Returns:
      [group] float64; zeros where all rewards are equal.

    Raises:
      ValueError: a reward is not finite.
    """
    found = np.asarray(rewards, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"rewards must be finite, got {', '.join(map(str, rewards))}")
    # All equal: dividing by the deviation would only amplify rounding.
    if found.min() == found.max():
        return np.zeros_like(found)
    centred: np.ndarray = found - found.mean()
    return centred / found.std() if variant == "grpo" else centred


def grpo(model: Model, config: GrpoConfig, *, remat: Remat = "none") -> Objective:
    """The clipped policy loss of Rollouts: the mean over completions of the mean over their tokens.

    With kl_beta, a KL penalty to the frozen parameters is added, with the unbiased estimator that
    is never negative (k3, http://joschu.net/blog/kl-approx.html). The auxiliary values are means of
    the same kind: clipped, the share of tokens whose gradient is zeroed by clipping; off_policy,
    the share whose log-probability differs in any bit from that of the sampling; and kl, with
    kl_beta.

    Args:
      model: the model.
      config: the settings of the loss.
      remat: what the backward pass recomputes.
    """

    def losses(
        policy: Policy, frozen: Params, rollouts: Rollouts, key: jax.Array | None = None
    ) -> Losses:
        del key  # no randomness: the completions were sampled in serving
        batch = rollouts.batch
        wanted = batch._replace(targets=jnp.where(batch.loss_weights != 0, batch.targets, -1))
        weights = jnp.asarray(batch.loss_weights)
        old, advantages = jnp.asarray(rollouts.old_logprobs), jnp.asarray(rollouts.advantages)
        new = token_logprobs(model, policy(batch.tokens.shape), wanted, remat=remat)
        ratio = jnp.exp(new - old)
        gain = ratio * advantages
        bounded = jnp.clip(ratio, 1 - config.clip, 1 + config.clip) * advantages
        loss = -jnp.minimum(gain, bounded)
        aux = {"clipped": bounded < gain, "off_policy": new != old}
        if config.kl_beta:
            if frozen is None:
                raise ValueError(
                    "kl_beta needs the parameters to stay near to, and there are no frozen ones: "
                    "give them, or set kl_beta to 0"
                )
            reference = token_logprobs(model, frozen, wanted, remat=remat)
            behind = jax.lax.stop_gradient(reference) - new
            kl = jnp.exp(behind) - behind - 1
            loss += config.kl_beta * kl
            aux["kl"] = kl
        means = {name: (weights * each).sum(axis=1) for name, each in aux.items()}
        return Losses((weights * loss).sum(axis=1), means)

    names = ("clipped", "off_policy", "kl") if config.kl_beta else ("clipped", "off_policy")
    return Objective(
        aux=names, vocab_size=model.vocab_size, denominators=_completions, losses=losses
    )


def _completions(rollouts: Rollouts) -> np.ndarray:
    count: np.ndarray = rollouts.batch.segment_ids.max(axis=1).astype(np.float32)
    return count
