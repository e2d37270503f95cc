"""The sizes of an engine's steps: the defaults of each backend, and the numbers of tokens for which
steps are compiled there.

Deliberately does not know JAX, memory, or how a step is padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from flaxen.kernels.backend import Backend


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """The sizes of an engine's steps."""

    max_num_seqs: int  # sequences that run at once
    max_num_batched_tokens: int  # tokens of the largest step
    compiled: tuple[int, ...]  # the numbers of tokens of compiled steps, smallest first


# A GPU or TPU reads all weights in each step, and multiplies with some 300 tokens in that time: so
# its steps are larger than a CPU's, and powers of two waste at most half of what is not the limit.
# A TPU's registers have 8 or 16 rows, which one token fills as well. Each shape takes seconds to
# compile.
_GPU = StepSizes(
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    compiled=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
)
_TPU = StepSizes(
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    compiled=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
)
DEFAULTS: Mapping[Backend, StepSizes] = {
    Backend.REFERENCE: StepSizes(
        max_num_seqs=64, max_num_batched_tokens=512, compiled=(1, 16, 64, 256, 1024, 4096)
    ),
    # One stream, several, many, a short prompt. Padding costs what its zeros take to read and write
    # (decision 0332).
    Backend.CPU: StepSizes(max_num_seqs=64, max_num_batched_tokens=512, compiled=(1, 16, 64, 128)),
    Backend.GPU: _GPU,
    Backend.GPU_INVARIANT: _GPU,
    Backend.TPU: _TPU,
    Backend.TPU_TOKAMAX: _TPU,
}


# An encoder's padding is computed, since its biases make it differ from zeros: so its steps are
# compiled for more sizes, of which the next one is at most half as large again.
_ENCODER = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144)


def biased_sizes(sizes: StepSizes) -> StepSizes:
    """The sizes of a decoder with biases, whose padding the C++ kernels compute.

    Args:
      sizes: those of a decoder without them.
    """
    tokens = sizes.max_num_batched_tokens
    smaller = tuple(size for size in (1, 16, 32, 64, 128, 256) if size < tokens)
    return replace(sizes, compiled=(*smaller, tokens))


def encoder_sizes(
    sizes: StepSizes,
    longest: int,
    *,
    asked_tokens: int | None,
    compile_sizes: tuple[int, ...] = (),
) -> StepSizes:
    """The sizes of an encoder's engine: a step has room for the longest prompt.

    Args:
      sizes: those of a decoder.
      longest: the tokens of the longest prompt.
      asked_tokens: the tokens of the largest step that were asked for; None chooses them.
      compile_sizes: as in `step_sizes`.
    """
    tokens = asked_tokens or max(sizes.max_num_batched_tokens, longest)
    smaller = tuple(size for size in _ENCODER if size < tokens)
    return StepSizes(
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=tokens,
        compiled=compile_sizes or (*smaller, tokens),
    )


def step_sizes(
    backend: Backend,
    *,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    compile_sizes: tuple[int, ...] = (),
) -> StepSizes:
    """The sizes of an engine: what was asked for, and else what the backend's defaults are.

    Args:
      backend: what computes.
      max_num_seqs: sequences; None is the default, or fewer if a step has fewer tokens.
      max_num_batched_tokens: tokens; None is the default, or more if there are more sequences.
      compile_sizes: the numbers of tokens of compiled steps; () is those of the backend that are
          smaller than the largest step, and that one.
    """
    default = DEFAULTS[backend]
    tokens = max_num_batched_tokens
    if tokens is None:
        tokens = max(default.max_num_batched_tokens, max_num_seqs or 0)
    seqs = min(default.max_num_seqs, tokens) if max_num_seqs is None else max_num_seqs
    smaller = tuple(size for size in default.compiled if size < tokens)
    return StepSizes(
        max_num_seqs=seqs,
        max_num_batched_tokens=tokens,
        compiled=compile_sizes or (*smaller, tokens),
    )
