"""Perplexity and multiple choice, against log-probabilities that are summed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flaxen.data.batch import Batch
from flaxen.data.encode import TokenSequence, cut
from flaxen.data.pack import collate, pack
from flaxen.models.adapters import LoraConfig, adapter_shapes
from flaxen.training.evaluate import (
    Accuracy,
    EncodedQuestion,
    Perplexity,
    make_logprobs,
    multiple_choice,
    perplexity,
)
from flaxen.weights.adapters.adapter import Adapter, merge_adapter
from tests.engine.tiny import PARAMS, dense_logprobs, prompts
from tests.training.tiny import MODEL

SCORE = make_logprobs(MODEL, PARAMS)


def sequence(tokens: list[int], num_asked: int = 1) -> TokenSequence:
    weights = np.ones(len(tokens), np.float32)
    weights[:num_asked] = 0
    return TokenSequence(np.asarray(tokens, np.int32), weights)


def by_hand(tokens: list[int], num_asked: int = 1) -> float:
    """The log-probability of the tokens after the first `num_asked`."""
    table = dense_logprobs(tokens)
    return float(sum(table[i - 1, tokens[i]] for i in range(num_asked, len(tokens))))


def test_the_perplexity_of_packed_sequences_is_that_of_each_alone() -> None:
    asked = [(ids, 1 + i % 3) for i, ids in enumerate(prompts([30, 9, 17, 5, 40, 12]))]
    rows = pack([sequence(*each) for each in asked], 48, 32)
    assert len(rows) < len(asked)
    batches = [collate(rows[i : i + 2], 2, 48) for i in range(0, len(rows), 2)]
    found = perplexity(batches, SCORE)
    num_tokens = sum(len(ids) - count for ids, count in asked)
    loss = -sum(by_hand(*each) for each in asked) / num_tokens
    assert found.num_tokens == num_tokens
    assert found.loss == pytest.approx(loss, abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-5)


def test_sliding_windows_give_each_token_its_context() -> None:
    (ids,) = prompts([61])
    length, overlap = 20, 15
    pieces = cut(sequence(ids), length, splits=True, overlap=overlap)
    found = perplexity([collate([(piece,) for piece in pieces], len(pieces), length)], SCORE)
    table = [dense_logprobs(ids[i : i + length]) for i in range(0, 41, 5)]
    expected = [float(table[0][i - 1, ids[i]]) for i in range(1, 21)]
    expected += [float(table[1 + j // 5][15 + j % 5, ids[21 + j]]) for j in range(40)]
    assert found.num_tokens == 60
    assert found.loss == pytest.approx(-sum(expected) / 60, abs=1e-5)


def test_the_most_likely_choice_is_taken() -> None:
    rng = np.random.default_rng(0)
    questions, right, right_by_length = [], 0, 0
    for prompt in prompts([6] * 40, seed=5):
        tails = [rng.integers(3, 300, n).tolist() for n in (2, 3, 5)]
        lengths = (1, 3, 7)
        answer = int(rng.integers(2))
        sums = np.array([by_hand(prompt + tail, len(prompt)) for tail in tails])
        right += int(sums.argmax()) == answer
        right_by_length += int((sums / lengths).argmax()) == answer
        sequences = tuple(sequence(prompt + tail, len(prompt)) for tail in tails)
        questions.append(EncodedQuestion(sequences=sequences, lengths=lengths, answer=answer))
    assert right != right_by_length  # else one would not tell them apart
    for batch_size, length in ((1, 11), (4, 48)):
        assert multiple_choice(questions, SCORE, batch_size=batch_size, sequence_length=length) == (
            Accuracy(num_questions=40, num_right=right),
            Accuracy(num_questions=40, num_right=right_by_length),
        )


def test_a_hundred_windows_of_questions_by_hand() -> None:
    """With a model that finds token t likely as -t."""

    def score(batch: Batch) -> np.ndarray:
        return -batch.targets.astype(np.float32)

    questions = [
        EncodedQuestion(
            sequences=(sequence([0, 5, 1], 1), sequence([0, 2], 1), sequence([0, 3], 1)),
            lengths=(6, 1, 2),
            answer=i % 3,
        )
        for i in range(300)
    ]
    total, by_length = multiple_choice(questions, score, batch_size=2, sequence_length=4)
    assert total == Accuracy(num_questions=300, num_right=100)
    assert by_length == Accuracy(num_questions=300, num_right=100)
    alone, _ = multiple_choice(questions[1:2], score, batch_size=2, sequence_length=4)
    assert alone == Accuracy(num_questions=1, num_right=1)
    _, alone = multiple_choice(questions[:1], score, batch_size=2, sequence_length=4)
    assert alone.num_right == 1  # 6 / 6 is less than 2 / 1 and 3 / 2
    assert total.accuracy == pytest.approx(1 / 3)
    assert total.stderr == pytest.approx(math.sqrt(2 / 9 / 299))
    assert alone.stderr == 0


def test_an_adapter_scores_as_merged_weights() -> None:
    config = LoraConfig(rank=3, alpha=6.0)
    rng = np.random.default_rng(0)
    layers = tuple(
        {
            name: {k: rng.standard_normal(s).astype(np.float32) / 9 for k, s in shapes.items()}
            for name, shapes in layer.items()
        }
        for layer in adapter_shapes(MODEL, config)["layers"]
    )
    adapter = Adapter(config=config, layers=layers)
    batch = collate([(sequence(prompts([40])[0]),)], 1, 48)
    beside = perplexity([batch], make_logprobs(MODEL, PARAMS, adapter))
    merged = perplexity([batch], make_logprobs(MODEL, merge_adapter(PARAMS, adapter)))
    assert beside.loss == pytest.approx(merged.loss, abs=1e-4)
    assert abs(beside.loss - perplexity([batch], SCORE).loss) > 0.01


def test_what_can_not_be_scored() -> None:
    with pytest.raises(ValueError, match="there is no token with a loss: the data is empty"):
        perplexity([], SCORE)
    with pytest.raises(ValueError, match="there is no question: write"):
        multiple_choice([], SCORE, batch_size=1, sequence_length=8)
    batch = collate([(sequence([1, 2]),)], 1, 4)
    with pytest.raises(ValueError, match="log-probabilities that are not finite: its weights are"):
        perplexity([batch], lambda batch: np.full(batch.targets.shape, np.nan, np.float32))
    assert Perplexity(num_tokens=1, loss=1e9).perplexity == math.inf
