"""The least time in which a machine could run a workload, to compare with measured times.

Knows: the bytes a step must read and the products it must do. Deliberately does not know engines.

A step can't be faster than reading the weights and the past keys and values from memory, nor than
computing its matrix products; the slower of the two counts. The arithmetic inside attention, the
norms and the sampling are left out, so the ideal is a bound that no engine reaches. A step reads
the experts that its tokens use, if each token chooses at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flaxen.benchmark.limits import Limits
from flaxen.benchmark.workloads import num_fresh_prompt_tokens


@dataclass(frozen=True, kw_only=True)
class CacheLayer:
    """The cache of one layer."""

    bytes_per_token: int
    window: int | None  # tokens; None keeps all
    bytes_per_sequence: int = 0  # in addition to those of its tokens


@dataclass(frozen=True, kw_only=True)
class ExpertsCost:
    """The weights of experts, of which each token uses the same share."""

    num_bytes: int
    num_params: int
    share: float  # k / E

    def read_bytes(self, num_tokens: int) -> float:
        """The bytes of the experts that at least one of the tokens uses: their expected value."""
        return self.num_bytes * (1 - (1 - self.share) ** num_tokens)


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a step must read and multiply, independent of the engine."""

    weight_bytes: int  # of the matrices without experts, each read once in a step
    layer_params: int  # their elements with which every token is multiplied
    # Matrix elements with which only tokens that sample a successor are multiplied.
    unembed_params: int
    cache_layers: tuple[CacheLayer, ...]
    experts: tuple[ExpertsCost, ...] = ()

    def read_bytes(self, num_tokens: int) -> float:
        """The bytes of weights that a step of so many tokens must read."""
        return self.weight_bytes + sum(each.read_bytes(num_tokens) for each in self.experts)

    @property
    def params_of_token(self) -> float:
        """The elements of matrices with which each token is multiplied."""
        return self.layer_params + sum(each.num_params * each.share for each in self.experts)

    @property
    def held_bytes(self) -> int:
        """The bytes of all weights, also of experts that no token uses."""
        return self.weight_bytes + sum(each.num_bytes for each in self.experts)

    def cache_bytes(self, num_tokens: int) -> int:
        """The bytes of the cache that decoding after `num_tokens` must read."""
        return sum(
            layer.bytes_per_token * min(num_tokens, layer.window or num_tokens)
            + layer.bytes_per_sequence
            for layer in self.cache_layers
        )


@dataclass(frozen=True, kw_only=True)
class Ideal:
    """The seconds up to the first output tokens, and for all others."""

    prefill_s: float
    decode_s: float


def ideal(
    cost: ModelCost,
    limits: Limits,
    prompts: Sequence[tuple[int, ...]],
    num_outputs: Sequence[int],
) -> Ideal:
    """The least time for requests that are all submitted at the start.

    Every prompt is prefilled at once, and every decode step runs all remaining sequences.
    """

    def step_s(num_tokens: int, num_samples: int, cache_bytes: int) -> float:
        flops = 2 * (cost.params_of_token * num_tokens + cost.unembed_params * num_samples)
        read_s = (cost.read_bytes(num_tokens) + cache_bytes) / limits.read_bytes_s
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
