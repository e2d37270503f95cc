"""The engine's sizes. Deliberately does not know JAX or models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flaxen.protocol import LogprobsMode
from flaxen.scheduling.cache.groups import CacheGroup, most_pages

MAX_LOGIT_BIAS = 1024  # entries of a request's logit_bias, for which each row has room
MAX_LOGPROB_IDS = 128  # of logprob_token_ids
# The most positions at which a step samples because of drafts: each has a line of logits, whether
# it is used or not.
MAX_SAMPLED = 64


@dataclass(frozen=True, kw_only=True)
class LoraLimits:
    """The number of adapters that an engine serves, and their largest rank. Names are vLLM's.

    Raises:
      ValueError: a limit is out of its range.
    """

    max_loras: int = 8  # slots: adapters that run at once, in one batch
    max_lora_rank: int = 16  # the rank of all slots; smaller adapters are padded with zeros
    max_cpu_loras: int | None = None  # adapters in host memory; None for no limit

    def __post_init__(self) -> None:
        for name in ("max_loras", "max_lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ValueError(
                f"max_cpu_loras must be at least max_loras ({self.max_loras}), got "
                f"{self.max_cpu_loras}: every adapter in a slot is also in the host's memory"
            )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Sizes that are fixed for an engine's life.

    Raises:
      ValueError: a size is out of range, or a pool can't hold one sequence of full length.
    """

    max_model_len: int  # tokens, prompt and output together
    groups: tuple[CacheGroup, ...]  # the groups of the model's layers, with their numbers of pages
    page_size: int = 16  # tokens of a page
    max_num_seqs: int = 64  # sequences that run at once
    max_num_batched_tokens: int = 512  # tokens computed in one step
    # Target for the time between two tokens of a sequence while prompts are computed. 0: no target;
    # None: the pace chooses it.
    target_itl_ms: float | None = 0
    enable_prefix_caching: bool = True
    max_waiting: int = 4096  # the most waiting sequences
    max_unread_bytes: int = 2**28  # the most bytes of unread events in total
    max_logprobs: int = 20  # the most that logprobs and prompt_logprobs may ask for
    logprobs_mode: LogprobsMode = LogprobsMode.RAW_LOGPROBS  # what logprobs of output tokens are
    compile_sizes: tuple[int, ...] = ()  # numbers of tokens of compiled steps; () chooses them
    lora: LoraLimits | None = None  # None: no adapters are served
    batch_invariant: bool = False  # promised: a token's bits depend on its own sequence alone
    enforce_eager: bool = False  # no command buffers (CUDA graphs)
    # The model is an encoder: each prompt is whole in one step, and nothing is kept after it.
    whole_prompts: bool = False
    num_spec_tokens: int = 0  # the most draft tokens of a sequence that one step verifies

    def __post_init__(self) -> None:
        for name in ("max_model_len", "page_size", "max_num_seqs",
                     "max_num_batched_tokens", "max_waiting", "max_unread_bytes"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        # Refuses NaN too.
        if self.target_itl_ms is not None and not 0 <= self.target_itl_ms < math.inf:
            raise ValueError(
                f"target_itl_ms must be a number of milliseconds, at least 0, got "
                f"{self.target_itl_ms}: 0 sets no target, and None takes the machine's"
            )
        if self.num_spec_tokens < 0:
            raise ValueError(f"num_spec_tokens must be at least 0, got {self.num_spec_tokens}")
        if self.num_spec_tokens and not all(group.keeps_tokens for group in self.groups):
            raise ValueError(
                f"num_spec_tokens must be 0, got {self.num_spec_tokens}: the model keeps states of "
                "one size, which can't go back to before a draft token that was rejected"
            )
        if self.max_logprobs < 0:
            raise ValueError(f"max_logprobs must be at least 0, got {self.max_logprobs}")
        self._check_groups()
        if self.compile_sizes and max(self.compile_sizes) < self.max_num_batched_tokens:
            raise ValueError(
                f"the largest of compile_sizes {self.compile_sizes} must be at least "
                f"max_num_batched_tokens ({self.max_num_batched_tokens})"
            )
        if any(size < 1 for size in self.compile_sizes):
            raise ValueError(f"compile_sizes must be at least 1, got {self.compile_sizes}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), so that every sequence can decode in a step"
            )

    @property
    def max_sampled(self) -> int:
        """The most positions at which a step samples: one for each sequence and each draft."""
        wanted = self.max_num_seqs * (1 + self.num_spec_tokens)
        most = max(self.max_num_seqs, min(wanted, MAX_SAMPLED))
        return min(most, self.max_num_batched_tokens)

    def _check_groups(self) -> None:
        if self.whole_prompts:
            if self.max_num_batched_tokens < self.max_model_len:
                raise ValueError(
                    f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                    f"max_model_len ({self.max_model_len}): an encoder computes each prompt whole, "
                    "in one step. Raise it, or lower max_model_len"
                )
            return
        if not self.groups:
            raise ValueError("groups must have at least one group: each layer belongs to one")
        for group in self.groups:
            needed = most_pages(
                group.spec, self.max_model_len, self.max_num_batched_tokens, self.page_size
            )
            if group.num_pages < needed:
                raise ValueError(
                    f"the KV pool has {group.num_pages} pages for layers that keep {group.spec}, "
                    f"and one sequence of max_model_len ({self.max_model_len}) needs {needed}: "
                    "lower max_model_len or give the pool more memory"
                )
