"""The speed targets of flaxen relative to its peers and to the machine's limits, and whether they
are met.

Deliberately does not measure.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flaxen.benchmark.ideal import ModelCost
from flaxen.benchmark.limits import Limits

from .compare import Measured, Outcome
from .serving import ServerOutcome

_WIDE = ("vllm", "openvino-bf16", "transformers", "llama-bf16", "llamabatched-bf16")
_VLLM = ("vllm",)
_UNPACED = "flaxenunpaced-bf16"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target: flaxen's speed on a workload over that of the best peer whose name begins with one
    of `peers`.
    """

    workload: str
    ours: str
    peers: tuple[str, ...]
    at_least: float


def _wide(workload: str, at_least: float) -> Target:
    return Target(workload=workload, ours="flaxen-bf16", peers=_WIDE, at_least=at_least)


def _against_vllm(workload: str, at_least: float) -> Target:
    return Target(workload=workload, ours="flaxen-bf16", peers=_VLLM, at_least=at_least)


TARGETS: Mapping[str, tuple[Target, ...]] = {
    "smollm2-135m": (
        _against_vllm("A", 1.9),
        Target(workload="A", ours="flaxen-bf16", peers=("openvino-bf16",), at_least=1.4),
        Target(workload="A", ours="flaxen-int8", peers=("llama-q8_0",), at_least=1.15),
        Target(workload="A", ours="flaxen-int4", peers=("llama-q4_1",), at_least=1.3),
        _wide("B16", 1.6),
        _wide("B64", 1.6),
        _wide("C", 1.3),
        _wide("D", 1.6),
        _wide("E", 1.6),
        Target(workload="B16", ours="flaxentorch-bf16", peers=("flaxen-bf16",), at_least=0.75),
        Target(workload="B16", ours="flaxentorch-bf16", peers=_VLLM, at_least=1.0),
    ),
    "llama-1b-rand": tuple(_against_vllm(name, 1.3) for name in ("A", "B16", "C", "D", "E")),
    "moe-1b-rand": (
        _against_vllm("B16", 1.3),
        Target(workload="B16", ours="flaxen-bf16", peers=("transformers",), at_least=2.0),
    ),
}
SERVER_AT_LEAST = 1.6  # output tokens a second, over vLLM's server
SERVER_OF_UNPACED = 0.9  # output tokens a second, over ours without a target between tokens
LIMIT_SHARE = 0.75  # of the read bandwidth: one stream of SmolLM2 in bf16
MEMORY_MARGIN_BYTES = 600_000_000  # above the weights and the KV pool


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A target and the measured value."""

    workload: str
    what: str  # the quantity that is compared
    ours: str
    against: str  # the best of the peers that ran, or another limit
    reached: float
    wanted: float
    is_most: bool = False  # the target is an upper bound, not a lower one

    @property
    def is_met(self) -> bool:
        """Whether the target was reached."""
        return self.reached <= self.wanted if self.is_most else self.reached >= self.wanted


def judge_ratios(model: str, outcomes: Sequence[Outcome]) -> list[Verdict]:
    """Judges the targets for which both sides have figures.

    The best peer is the one that leaves us the least ratio, whatever its number format, so that a
    peer that is slow in one format on this machine is not the one that counts.
    """
    measured: dict[tuple[str, str], Measured] = {
        (outcome.engine.name, name): result
        for outcome in outcomes
        for name, result in outcome.measured.items()
    }
    verdicts = []
    for target in TARGETS.get(model, ()):
        ours = measured.get((target.ours, target.workload))
        if ours is None:
            continue
        ratios = {
            engine: ratio(ours.speeds, theirs.speeds)
            for (engine, workload), theirs in measured.items()
            if workload == target.workload and engine.startswith(target.peers)
        }
        if ratios:
            peer = min(ratios, key=ratios.__getitem__)
            verdicts.append(
                Verdict(
                    workload=target.workload,
                    what="ratio",
                    ours=target.ours,
                    against=peer,
                    reached=ratios[peer],
                    wanted=target.at_least,
                )
            )
    return verdicts


def judge_limits(
    model: str,
    outcomes: Sequence[Outcome],
    costs: Mapping[str, ModelCost],
    limits: Limits,
) -> list[Verdict]:
    """Judges flaxen against the machine's bandwidth, and against its own memory.

    Args:
      model: its name.
      outcomes: of all engines.
      costs: by engine.
      limits: the machine's.
    """
    verdicts = []
    for outcome in outcomes:
        name = outcome.engine.name
        if not name.startswith("flaxen-") or not outcome.measured:
            continue
        if (model, name) == ("smollm2-135m", "flaxen-bf16") and "A" in outcome.measured:
            reps = outcome.measured["A"].reps
            share = statistics.median(rep.limit_share(costs[name], limits) for rep in reps)
            verdicts.append(
                Verdict(
                    workload="A",
                    what="share of the limit",
                    ours=name,
                    against="read bandwidth",
                    reached=share,
                    wanted=LIMIT_SHARE,
                )
            )
        verdicts.append(
            Verdict(
                workload="all",
                what="peak memory, GB",
                ours=name,
                against="weights + KV + 0.6",
                reached=outcome.peak_rss_bytes / 1e9,
                wanted=(costs[name].held_bytes + outcome.engine.kv_bytes + MEMORY_MARGIN_BYTES)
                / 1e9,
                is_most=True,
            )
        )
    return verdicts


def judge_servers(outcomes: Sequence[ServerOutcome]) -> list[Verdict]:
    """Judges flaxen's bf16 server against vLLM's, in the format in which that has more output.

    And against itself without a target between tokens, where that ran.
    """
    by_name = {outcome.server.name: outcome.figures for outcome in outcomes if outcome.figures}
    ours = by_name.get("flaxen-bf16")
    if ours is None:
        return []

    def verdict(what: str, figure: str, peer: str, wanted: float, is_most: bool) -> Verdict:
        reached = ratio(ours[figure], by_name[peer][figure])
        return Verdict(
            workload="S", what=what, ours="flaxen-bf16", against=peer, reached=reached,
            wanted=wanted, is_most=is_most,
        )  # fmt: skip

    verdicts = []
    ratios = {
        name: ratio(ours["output_tok_s"], figures["output_tok_s"])
        for name, figures in by_name.items()
        if name.startswith("vllm")
    }
    if ratios:
        peer = min(ratios, key=ratios.__getitem__)
        verdicts += [
            verdict("ratio", "output_tok_s", peer, SERVER_AT_LEAST, False),
            verdict("first token p99, ratio", "ttft_p99_ms", peer, 1.0, True),
            verdict("inter-token p99, ratio", "itl_p99_ms", peer, 1.0, True),
        ]
    if _UNPACED in by_name:
        verdicts.append(verdict("ratio", "output_tok_s", _UNPACED, SERVER_OF_UNPACED, False))
    return verdicts


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """flaxen's speed over the peer's: the median over the repetitions that both ran.

    Each repetition's two runs lie next to each other in time, so that a slow minute of the machine
    falls on both.
    """
    pairs = zip(ours, theirs, strict=False)  # one that failed ran fewer
    return statistics.median(our / their for our, their in pairs)
