"""What the sequences of a step need: its program, and what its sampling does.

Deliberately does not know: which programs are compiled, how they compute.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from flaxen.execution.programs import Program
from flaxen.execution.sampling import BatchNeeds
from flaxen.execution.shapes import Shape, smallest_shape
from flaxen.execution.step_options import has_prompt_embeds
from flaxen.scheduling.plan import Scheduled
from flaxen.scheduling.step_grammars import has_grammar

_LOG = logging.getLogger("flaxen.engine")

NO_NEEDS = BatchNeeds(*np.zeros(2, bool))


def exact_program(shapes: Iterable[Shape], items: Sequence[Scheduled]) -> Program:
    """The program that is made for such a step: the smallest shape, and only inputs that it has."""
    num_tokens = sum(item.num_tokens for item in items)
    return Program(
        shape=smallest_shape(shapes, num_tokens, len(items)),
        has_adapters=any(item.sequence.adapter is not None for item in items),
        has_grammar=has_grammar(items),
        has_embeds=has_prompt_embeds(items),
    )


def batch_needs(items: Sequence[Scheduled]) -> BatchNeeds:
    """What the sampling of any of the sequences needs."""
    adjust = logprobs = False
    for item in items:
        if not item.samples:
            continue
        s = item.sequence.sampling
        adjust |= bool(
            s.logit_bias
            or s.allowed_token_ids is not None
            or s.bad_words
            or s.min_tokens
            or s.presence_penalty
            or s.frequency_penalty
            or s.repetition_penalty != 1
        )
        logprobs |= s.num_logprobs is not None
    return BatchNeeds(*map(np.bool_, (adjust, logprobs)))  # type: ignore[arg-type]


def is_read_again(items: Sequence[Scheduled]) -> bool:
    """Whether a step's results take another computation once they are there: to pool hidden states,
    or for the log-probabilities of prompts.
    """
    return any(item.num_scored or item.sequence.pooling is not None for item in items)


def log_wait(program: Program, items: Sequence[Scheduled], seconds: float) -> None:
    """Logs that requests waited for a program to be compiled."""
    values = {
        "num_tokens": program.shape.num_tokens,
        "num_seqs": program.shape.num_seqs,
        "kind": _kind(program),
        "seconds": round(seconds, 3),
        "num_requests": len({item.sequence.request_id for item in items}),
    }
    _LOG.info(
        "compiled the step of %(num_tokens)d tokens and %(num_seqs)d sequences%(kind)s in "
        "%(seconds).1f s, while %(num_requests)d request(s) waited for it",
        values,
    )


def _kind(program: Program) -> str:
    kinds = [
        ("adapters", program.has_adapters),
        ("grammars", program.has_grammar),
        ("embeddings", program.has_embeds),
    ]
    found = " and ".join(name for name, is_there in kinds if is_there)
    return found and f" with {found}"
