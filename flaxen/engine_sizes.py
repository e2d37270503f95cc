"""The sizes of an engine's steps and sequences, from its arguments and its model.

Deliberately does not know: weights, memory, devices.
"""

from __future__ import annotations

from dataclasses import replace

from flaxen.definitions.definition import Definition
from flaxen.definitions.opening import AnySource
from flaxen.engine_args import EngineArgs
from flaxen.execution.step_sizes import StepSizes, biased_sizes, encoder_sizes, step_sizes
from flaxen.memory.cache_plan import CachePlan
from flaxen.models.model import Model
from flaxen.protocol import LogprobsMode, PoolingInfo
from flaxen.scheduling.config import EngineConfig, LoraLimits


def engine_sizes(
    args: EngineArgs, source: AnySource, model: Model, pooling: PoolingInfo | None
) -> StepSizes:
    """The sizes of the engine's steps.

    Args:
      args: the arguments.
      source: the opened model.
      model: the same, made for its backend.
      pooling: how it pools; None if it generates.
    """
    sizes = step_sizes(
        model.backend,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        compile_sizes=args.compile_sizes,
    )
    if model.is_encoder:
        return encoder_sizes(
            sizes,
            longest_asked(args, model, pooling) or model.max_position,
            asked_tokens=args.max_num_batched_tokens,
            compile_sizes=args.compile_sizes,
        )
    if args.compile_sizes or not model.backend.pads_cheaply:
        return sizes
    if isinstance(source, Definition):
        return _definition_sizes(sizes)
    return sizes if model.pads_with_zeros else biased_sizes(sizes)


def engine_config(
    args: EngineArgs,
    sizes: StepSizes,
    plan: CachePlan,
    lora: LoraLimits | None,
    *,
    whole_prompts: bool,
) -> EngineConfig:
    """The engine's configuration, from its arguments and the sizes that follow from them."""
    return EngineConfig(
        max_model_len=plan.max_model_len,
        groups=plan.groups,
        page_size=args.page_size,
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
        target_itl_ms=args.target_itl_ms,
        enable_prefix_caching=args.enable_prefix_caching,
        max_waiting=args.max_waiting,
        max_unread_bytes=args.max_unread_bytes,
        max_logprobs=args.max_logprobs,
        logprobs_mode=LogprobsMode(args.logprobs_mode),
        compile_sizes=sizes.compiled,
        lora=lora,
        batch_invariant=args.batch_invariant,
        enforce_eager=args.enforce_eager,
        whole_prompts=whole_prompts,
        num_spec_tokens=num_spec_tokens(args),
    )


def num_spec_tokens(args: EngineArgs) -> int:
    """The most draft tokens of a sequence in a step."""
    return 0 if args.speculation is None else args.speculation.num_speculative_tokens


def longest_asked(args: EngineArgs, model: Model, pooling: PoolingInfo | None) -> int | None:
    """The longest sequence: what was asked for, else what a pooling model was trained for."""
    if args.max_model_len is not None or pooling is None or pooling.max_tokens is None:
        return args.max_model_len
    return min(pooling.max_tokens, model.max_position)


def _definition_sizes(sizes: StepSizes) -> StepSizes:
    """The step sizes of a definition: never one token, because with one row XLA fuses the
    operations between kernels differently, and rounds differently. Padding is not multiplied here
    either.
    """
    largest = sizes.max_num_batched_tokens
    return replace(sizes, compiled=tuple(sorted({min(16, largest), largest})))
