"""Evaluates a model: perplexity, and multiple-choice accuracy.

Deliberately does not know: files, formats, how batches are packed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence
from flaxen.data.pack import collate, pack
from flaxen.models.adapters import with_adapters
from flaxen.models.model import Model, Params
from flaxen.training.layout import lay_batch
from flaxen.training.loss import token_logprobs
from flaxen.training.token_ids import check_token_ids
from flaxen.weights.adapters.adapter import Adapter

LogprobFn = Callable[[Batch], np.ndarray]  # the log-probability of each target, [B, T] float32

_WINDOW_ROWS = 64  # rows of choices that are packed together


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """The mean loss over tokens, and its perplexity."""

    num_tokens: int  # tokens with a loss
    loss: float  # the mean over tokens, in nats

    @property
    def perplexity(self) -> float:
        """exp(loss); infinity if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """How often the right choice had the highest log-probability."""

    num_questions: int
    num_right: int

    @property
    def accuracy(self) -> float:
        """The share of right choices, from 0 to 1."""
        return self.num_right / self.num_questions

    @property
    def stderr(self) -> float:
        """The standard error of the accuracy; 0 for a single question."""
        p, n = self.accuracy, self.num_questions
        return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class EncodedQuestion:
    """The choices of one question, as token sequences."""

    sequences: tuple[TokenSequence, ...]  # one for each choice, with loss weights on its tokens
    lengths: tuple[int, ...]  # the divisors of the length-normalised accuracy, above 0
    answer: int


def make_logprobs(model: Model, params: Params, adapter: Adapter | None = None) -> LogprobFn:
    """Makes a function that computes the log-probabilities of a batch; compiled once for each
    shape.

    Args:
      model: the model.
      params: its parameters.
      adapter: an adapter to apply, or None.
    """
    stack = None
    if adapter:
        stack = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], adapter.tree)
        scales = jnp.full(1, adapter.config.scale, jnp.float32)

    @jax.jit
    def compiled(params: Params, stack: object, batch: Batch) -> jax.Array:
        if stack is not None:
            ids = jnp.zeros(batch.tokens.shape, jnp.int32)
            params = with_adapters(params, stack, scales, ids)
        # Nothing is computed for targets without a loss.
        targets = jnp.where(batch.loss_weights > 0, batch.targets, -1)
        return token_logprobs(model, params, batch._replace(targets=targets))

    def logprobs(batch: Batch) -> np.ndarray:
        check_token_ids(batch, model.vocab_size)
        return np.asarray(compiled(params, stack, lay_batch(model.placement, batch)))

    return logprobs


def perplexity(batches: Iterable[Batch], logprobs: LogprobFn) -> Perplexity:
    """The mean loss of all targets of the batches, weighted by their loss weights.

    Raises:
      ValueError: no target has a weight, or the model's log-probabilities are not finite.
    """
    total = num_tokens = 0.0
    for batch in batches:
        weights = batch.loss_weights.astype(np.float64)
        total -= float((weights * logprobs(batch)).sum())
        num_tokens += float(weights.sum())
    if not num_tokens:
        raise ValueError("there is no token with a loss: the data is empty")
    if not math.isfinite(total):
        raise ValueError(
            "the model gives log-probabilities that are not finite: its weights are damaged, or "
            "overflow in this dtype"
        )
    return Perplexity(num_tokens=round(num_tokens), loss=total / num_tokens)


def multiple_choice(
    questions: Iterable[EncodedQuestion],
    logprobs: LogprobFn,
    *,
    batch_size: int,
    sequence_length: int,
) -> tuple[Accuracy, Accuracy]:
    """Answers each question with the choice of the highest log-probability.

    Ties go to the first choice.

    Args:
      questions: the questions; at least one.
      logprobs: the model's, from `make_logprobs`.
      batch_size: the rows of a batch.
      sequence_length: the tokens of a row; each sequence must fit.

    Returns:
      The accuracy by the sum of a choice's log-probabilities, and by that sum over its length.

    Raises:
      ValueError: no question.
    """
    num_questions = num_right = num_right_by_length = 0
    window: list[EncodedQuestion] = []

    def judge() -> None:
        nonlocal num_questions, num_right, num_right_by_length
        sequences = [sequence for question in window for sequence in question.sequences]
        sums = iter(_sums(sequences, logprobs, batch_size, sequence_length))
        for question in window:
            own = np.array([next(sums) for _ in question.sequences])
            num_questions += 1
            num_right += int(own.argmax()) == question.answer
            num_right_by_length += int((own / question.lengths).argmax()) == question.answer
        window.clear()

    for question in questions:
        window.append(question)
        if sum(s.num_inputs for q in window for s in q.sequences) > _WINDOW_ROWS * sequence_length:
            judge()
    judge()
    if not num_questions:
        raise ValueError("there is no question: write at least one")
    return (
        Accuracy(num_questions=num_questions, num_right=num_right),
        Accuracy(num_questions=num_questions, num_right=num_right_by_length),
    )


def _sums(
    sequences: Sequence[TokenSequence], logprobs: LogprobFn, batch_size: int, length: int
) -> list[float]:
    """The weighted sum of each sequence's log-probabilities, in order."""
    rows = pack(sequences, length, max_segments=32)
    by_identity: dict[int, float] = {}
    for begin in range(0, len(rows), batch_size):
        some = rows[begin : begin + batch_size]
        batch = collate(some, batch_size, length)
        weighted = batch.loss_weights.astype(np.float64) * logprobs(batch)
        for i, row in enumerate(some):
            sums = np.bincount(batch.segment_ids[i], weighted[i], minlength=len(row) + 1)
            by_identity |= {id(each): float(sums[j]) for j, each in enumerate(row, 1)}
    return [by_identity[id(sequence)] for sequence in sequences]
