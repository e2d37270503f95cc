"""Token ids that the model has no embedding for are refused before anything is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flaxen.data.batch import Batch, PairBatch
from flaxen.training.dpo import dpo
from flaxen.training.evaluate import make_logprobs
from flaxen.training.grpo import GrpoConfig, Rollouts, grpo
from flaxen.training.loss import next_token
from flaxen.training.token_ids import check_token_ids
from tests.engine.tiny import PARAMS
from tests.training.tiny import MODEL, pack_batch

VOCAB = MODEL.vocab_size
OUTSIDE = f"outside the model's vocabulary of {VOCAB} tokens: the tokenizer is not the model's"


def batch(*rows: list[int]) -> Batch:
    return pack_batch([[row] for row in rows], 8)


def test_a_token_and_a_target_are_named_by_their_place() -> None:
    context = batch([3, 4, 5], [3, VOCAB, 5])
    with pytest.raises(ValueError, match=rf"token id {VOCAB} in row 1 at 1, {OUTSIDE}"):
        check_token_ids(context, VOCAB)
    last = batch([3, 4, 5], [3, 4, VOCAB])
    last.tokens[1, 2] = 0
    with pytest.raises(ValueError, match=rf"target id {VOCAB} in row 1 at 1, {OUTSIDE}"):
        check_token_ids(last, VOCAB)
    with pytest.raises(ValueError, match="token id -1 in row 0 at 0"):
        check_token_ids(batch([-1, 4]), VOCAB)
    check_token_ids(batch([VOCAB - 1, 0, VOCAB - 1]), VOCAB)


def test_what_is_padding_or_has_no_loss_is_not_looked_at() -> None:
    good = batch([3, 4, 5])
    good.tokens[0, 5] = VOCAB
    good.targets[0, 5] = VOCAB
    check_token_ids(good, VOCAB)


def test_all_of_a_tree_is_looked_at() -> None:
    good, bad = batch([3, 4]), batch([3, VOCAB])
    zeros = np.zeros(bad.tokens.shape, np.float32)
    for tree in ([good, bad], PairBatch(good, bad), Rollouts(bad, zeros, zeros)):
        with pytest.raises(ValueError, match=OUTSIDE):
            check_token_ids(tree, VOCAB)


def test_every_objective_says_what_its_model_knows() -> None:
    objectives: list[Any] = [
        next_token(MODEL), dpo(MODEL), grpo(MODEL, GrpoConfig(sequence_length=8)),
    ]  # fmt: skip
    assert [each.vocab_size for each in objectives] == [VOCAB] * 3


def test_a_score_is_refused() -> None:
    with pytest.raises(ValueError, match=OUTSIDE):
        make_logprobs(MODEL, PARAMS)(batch([3, VOCAB, 5]))
