"""The least time in which a machine could do a workload: what a measured time is compared with.

Knows: the bytes a step must read and the products it must do. Deliberately does not know engines.

A step can't be faster than memory brings the weights and the past keys and values, nor than the
cores do its matrix products; the slower of the two counts. The arithmetic inside attention, the
norms and the sampling are left out, so that the ideal is a bound that nobody reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.cli.bench.limits import Limits
from flaxen.cli.bench.workloads import num_fresh_prompt_tokens


@dataclass(frozen=True, kw_only=True)
class CacheLayer:
    """What one layer keeps of the past."""

    bytes_per_token: int
    window: int | None  # tokens; None keeps all
    bytes_per_sequence: int = 0  # beside those of its tokens


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a step must read and multiply, whatever the engine."""

    weight_bytes: int  # of the matrices, each read once a step
    layer_params: int  # matrix elements that every token is multiplied with
    unembed_params: int  # those that only a token with a successor to sample is multiplied with
    cache_layers: tuple[CacheLayer, ...]

    def cache_bytes(self, num_tokens: int) -> int:
        """Bytes of the cache that decoding after `num_tokens` must read."""
        return sum(
            layer.bytes_per_token * min(num_tokens, layer.window or num_tokens)
            + layer.bytes_per_sequence
            for layer in self.cache_layers
        )


@dataclass(frozen=True, kw_only=True)
class Ideal:
    """Seconds for the prompts, up to the first output tokens, and for the others."""

    prefill_s: float
    decode_s: float


def ideal(
    cost: ModelCost,
    limits: Limits,
    prompts: Sequence[tuple[int, ...]],
    num_outputs: Sequence[int],
) -> Ideal:
    """The least time for requests that are all there at the start.

    Every prompt is prefilled at once, and every decode step takes all sequences that still run.
    """

    def step_s(num_tokens: int, num_samples: int, cache_bytes: int) -> float:
        flops = 2 * (cost.layer_params * num_tokens + cost.unembed_params * num_samples)
        read_s = (cost.weight_bytes + cache_bytes) / limits.read_bytes_s
        return max(read_s, flops / limits.peak_flops)

    decode_s = 0.0
    for num_done in range(1, max(num_outputs)):
        lengths = [
            len(prompt) + num_done
            for prompt, num_output in zip(prompts, num_outputs, strict=True)
            if num_output > num_done
        ]
        decode_s += step_s(len(lengths), len(lengths), sum(map(cost.cache_bytes, lengths)))
    return Ideal(
        prefill_s=step_s(num_fresh_prompt_tokens(prompts), len(prompts), 0), decode_s=decode_s
    )
