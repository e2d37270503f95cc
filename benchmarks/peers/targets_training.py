"""The targets of fine-tuning speed and memory relative to the peers, and whether they are met.

Deliberately does not measure.
"""

from __future__ import annotations

from collections.abc import Sequence

from .targets import Verdict, ratio
from .training import TrainerOutcome

AT_LEAST = 1.5  # tokens a second, over the faster of the peer's formats
# The largest difference between the losses of a step. Rounding to bfloat16 is a part of it.
LOSS_APART = 0.05
_OURS = "flaxen-bf16"


def judge_trainers(outcomes: Sequence[TrainerOutcome]) -> list[Verdict]:
    """Judges flaxen against every peer that ran to its end.

    Each target is held against the peer that makes it the hardest to reach.
    """
    done = {each.trainer.name: each for each in outcomes if each.error is None and each.tokens_s}
    ours = done.get(_OURS)
    peers = {name: each for name, each in done.items() if not name.startswith("flaxen")}
    if ours is None or not peers:
        return []
    ratios = {name: ratio(ours.tokens_s, each.tokens_s) for name, each in peers.items()}
    fastest = min(ratios, key=ratios.__getitem__)
    smallest = min(peers, key=lambda name: peers[name].peak_rss_bytes)
    apart = {name: _most_apart(ours.losses, each.losses) for name, each in peers.items()}
    farthest = max(apart, key=apart.__getitem__)
    return [
        Verdict(
            workload="L",
            what="ratio",
            ours=_OURS,
            against=fastest,
            reached=ratios[fastest],
            wanted=AT_LEAST,
        ),
        Verdict(
            workload="L",
            what="peak memory, GB",
            ours=_OURS,
            against=smallest,
            reached=ours.peak_rss_bytes / 1e9,
            wanted=peers[smallest].peak_rss_bytes / 1e9,
            is_most=True,
        ),
        Verdict(
            workload="L",
            what="losses apart",
            ours=_OURS,
            against=farthest,
            reached=apart[farthest],
            wanted=LOSS_APART,
            is_most=True,
        ),
    ]


def _most_apart(first: Sequence[float], second: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(first, second, strict=True))
