"""Group relative policy optimisation, https://arxiv.org/abs/2402.03300: advantages and the loss.

Deliberately does not know: who samples, how rewards are found, optimizers.
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
from flaxen.train.loss import Losses, Objective, Policy, Remat, token_logprobs

# What a reward and a token count: grpo divides by the group's deviation and the completion's
# length, dr_grpo (https://arxiv.org/abs/2503.20783) by neither, so that a wrong long answer is not
# preferred to a wrong short one.
Variant = Literal["grpo", "dr_grpo"]


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """What is sampled for a step, and how much is learned from it.

    Raises:
      ValueError: a value out of its range.
    """

    sequence_length: int  # tokens of a row, which completions share; at least the longest one's
    group_size: int = 8  # completions of each prompt
    num_updates: int = 1  # from the same completions; the first is on policy
    clip: float = 0.2  # how far a probability may move from the one it was sampled with
    kl_beta: float = 0.0  # what it costs to leave the frozen parameters
    variant: Variant = "grpo"
    max_tokens: int | None = None  # of a completion; dr_grpo divides by it
    microbatch_rows: int = 1  # as many as memory allows

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
    """Completions, packed. Where a token is none of a completion's, all that is float is 0."""

    batch: Batch  # loss weights are 1 / length: they add up to 1 for each completion
    old_logprobs: Any  # [B, T] float32, of each target as it was sampled
    advantages: Any  # [B, T] float32, of the completion it is in


def group_advantages(rewards: Sequence[float], variant: Variant = "grpo") -> np.ndarray:
    """How much better each completion of one prompt is than their mean.

    Args:
      rewards: of the group.
      variant: grpo divides by the group's standard deviation.

    Returns:
      [group] float64; zeros where all rewards are equal.

    Raises:
      ValueError: a reward is not finite.
    """
    found = np.asarray(rewards, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"rewards must be finite, got {', '.join(map(str, rewards))}")
    if found.min() == found.max():  # nothing to tell apart, and no rounding to be blown up
        return np.zeros_like(found)
    centred: np.ndarray = found - found.mean()
    return centred / found.std() if variant == "grpo" else centred


def grpo(model: Model, config: GrpoConfig, *, remat: Remat = "none") -> Objective:
    """The clipped loss of Rollouts, a mean over completions of the mean over their tokens.

    With kl_beta, the distance to the frozen parameters is added, by the unbiased estimator that is
    never negative (k3, http://joschu.net/blog/kl-approx.html).

    Its reports are means of the same kind: clipped, the share of tokens whose gradient the clipping
    takes; off_policy, the share whose probability is not, to the bit, the one it was sampled with;
    with kl_beta also kl.

    Args:
      model: the model.
      config: the loss.
      remat: what the backward pass recomputes.
    """

    def losses(
        policy: Policy, frozen: Params, rollouts: Rollouts, key: jax.Array | None = None
    ) -> Losses:
        del key  # the completions were sampled from the model as it is served
        batch = rollouts.batch
        wanted = batch._replace(targets=jnp.where(batch.loss_weights != 0, batch.targets, -1))
        weights = jnp.asarray(batch.loss_weights)
        old, advantages = jnp.asarray(rollouts.old_logprobs), jnp.asarray(rollouts.advantages)
        new = token_logprobs(model, policy(batch.tokens.shape), wanted, remat=remat)
        ratio = jnp.exp(new - old)
        gain = ratio * advantages
        bounded = jnp.clip(ratio, 1 - config.clip, 1 + config.clip) * advantages
        loss = -jnp.minimum(gain, bounded)
        reports = {"clipped": bounded < gain, "off_policy": new != old}
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
            reports["kl"] = kl
        means = {name: (weights * each).sum(axis=1) for name, each in reports.items()}
        return Losses((weights * loss).sum(axis=1), means)

    names = ("clipped", "off_policy", "kl") if config.kl_beta else ("clipped", "off_policy")
    return Objective(reports=names, vocab_size=model.vocab_size, counts=_completions, losses=losses)


def _completions(rollouts: Rollouts) -> np.ndarray:
    count: np.ndarray = rollouts.batch.segment_ids.max(axis=1).astype(np.float32)
    return count
